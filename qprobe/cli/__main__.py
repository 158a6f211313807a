"""``python -m qprobe.cli``: the same as the ``qprobe`` command."""

from qprobe.cli.main import run

run()
