"""Write the generated parts of the README and the charts beside it, from the stored results.

With ``--check`` nothing is written; the exit code says whether something would change.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import results
from page import page

from qprobe.errors import InputError, QprobeError

HERE = Path(__file__).parent
README, FIGURES = "README.md", "figures"


def rendered(folder: Path, stored: Path) -> dict[Path, str]:
    """What every generated file has to hold."""
    made = page(stored)
    text = (folder / README).read_text("utf-8")
    files = {folder / README: filled(text, made.sections)}
    return files | {folder / FIGURES / f"{name}.svg": svg for name, svg in made.charts.items()}


def filled(text: str, sections: Mapping[str, str]) -> str:
    """The text with each section between its markers; a section without them is an error.

    >>> print(filled("a <!-- begin x -->old<!-- end x --> b", {"x": "new"}))
    a <!-- begin x -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- end x --> b
    """
    for name, section in sections.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise InputError(f"the page needs {begin} and {end} once each, for its section.")
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        body = f"{begin}\n\n{section}\n\n{end}"
        text = pattern.sub(lambda _, body=body: body, text)  # type: ignore[misc]
    return text


def main(arguments: list[str] | None = None) -> int:
    """Write what changed, or say what would; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Write nothing.")
    options = parser.parse_args(arguments)
    changed = [
        (path, text)
        for path, text in rendered(HERE, results.FOLDER).items()
        if not path.is_file() or path.read_text("utf-8") != text
    ]
    for path, text in changed:
        print(f"{'would change' if options.check else 'written'}: {path}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    return 1 if changed and options.check else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QprobeError as error:
        sys.exit(f"error: {error}")
