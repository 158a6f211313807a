"""Modules for a library that is not installed are not collected for their examples."""

from importlib.util import find_spec

collect_ignore = [
    f"qprobe/integrations/{library}.py"
    for library in ("lightning", "transformers")
    if find_spec(library) is None
]
