"""``python -m qprobe``: the same as the ``qprobe`` command."""

from qprobe.cli.main import run

run()
