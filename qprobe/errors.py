"""The exceptions a caller may want to catch.

Everything qprobe raises on purpose derives from :class:`QprobeError`; any other exception that
escapes is a defect of ours. Messages are one sentence: what was wrong, where, and what to do next.
"""


class QprobeError(Exception):
    """Base of every error that qprobe raises on purpose."""


class InputError(QprobeError, ValueError):
    """A value, a file or an argument that cannot be used as it is."""


class UnsuitableError(InputError):
    """Something that is no defect of the caller's, and that a statistic has no meaning for."""


class UnknownNameError(InputError, KeyError):
    """A name that is not registered; the message lists the nearest ones that are."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingExtraError(QprobeError, ImportError):
    """An optional dependency is needed; the message names the extra that installs it."""
