"""One tensor of one module, or of one call inside a module, and the name it goes by."""

import re
from dataclasses import dataclass, replace

from qprobe.errors import InputError
from qprobe.records.schema import Role

#: What the model itself is called: its own path is empty, and a name must not be.
ROOT = "."

_ROLE = re.compile(r"(?P<role>[a-z_]+)(?:\[(?P<index>\d+)\])?")


@dataclass(frozen=True, slots=True)
class Site:
    """One tensor: where it is, what it is there, and which one where there are several.

    ``path`` is the module's name in ``named_modules()``; a call inside a module is named after it,
    ``blocks.0/add.1`` being the second addition in ``blocks.0``, and a :class:`~qprobe.sites.Tap`
    after the module that holds it, ``decoder/fused``. ``index`` counts the module's calls in one
    pass, the branches of a fusion, or query, key and value at an attention.

    >>> site = Site("encoder.0.conv", Role.INPUT, "conv2d")
    >>> str(site)
    'conv2d encoder.0.conv input'
    >>> str(Site("blocks.0/add.1", Role.BRANCH, "add", index=1))
    'add blocks.0/add.1 branch[1]'
    >>> Site.parse("conv2d encoder.0.conv input") == site
    True
    """

    path: str
    role: Role
    kind: str
    index: int = 0

    def __post_init__(self) -> None:
        if not self.kind or " " in self.kind:
            raise InputError(f"the kind of a site is one word, got {self.kind!r}.")
        if self.index < 0:
            raise InputError(f"the index of the site {self.path!r} is {self.index}; count from 0.")

    def __str__(self) -> str:
        which = f"[{self.index}]" if self.index or self.role is Role.BRANCH else ""
        return f"{self.kind} {self.path or ROOT} {self.role}{which}"

    @property
    def name(self) -> str:
        """What the site is called in records, beside its role.

        >>> Site("head", Role.INPUT, "linear").name, Site("cat.0", Role.BRANCH, "cat", 1).name
        ('head', 'cat.0#1')
        """
        several = self.index or self.role is Role.BRANCH or self.operand
        return f"{self.path or ROOT}#{self.index}" if several else self.path or ROOT

    @property
    def merged(self) -> "Site":
        """The site without the number of its call, which branches and operands do not have."""
        if not self.index or self.role is Role.BRANCH or self.operand:
            return self
        return replace(self, index=0)

    @property
    def operand(self) -> bool:
        """Whether the index tells query, key and value apart."""
        return self.kind == "attention" and self.role is Role.INPUT

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read what ``str(site)`` wrote; module names may contain spaces."""
        kind, _, rest = text.partition(" ")
        path, _, last = rest.rpartition(" ")
        match = _ROLE.fullmatch(last)
        if not (kind and path and match):
            raise InputError(f"{text!r} is no site; write it as in 'linear head input'.")
        if match["role"] not in set(Role):
            raise InputError(
                f"{text!r} has no role known here; take one of {', '.join(sorted(Role))}."
            )
        index = int(match["index"] or 0)
        return cls("" if path == ROOT else path, Role(match["role"]), kind, index)


def numbered(site: Site, index: int) -> Site:
    """The site of a call with this number; an operand of attention keeps its own.

    >>> str(numbered(Site("head", Role.INPUT, "linear"), 2))
    'linear head input[2]'
    >>> str(numbered(Site("attention", Role.INPUT, "attention", index=1), 2))
    'attention attention input[1]'
    """
    return replace(site, index=index) if index and not site.operand else site
