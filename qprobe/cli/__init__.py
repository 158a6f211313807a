"""The ``qprobe`` command: :mod:`qprobe.cli.main` and one module per subcommand."""
