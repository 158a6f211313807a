"""The house rules that no linter knows: sizes, names, layout, and who may reach torch.

Each rule is a function from files to sentences, so that each is also shown a breach of itself.
"""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 400
LONGEST_TEST = 600  # one test file a module, with its tables of cases
FORBIDDEN = {"utils", "util", "common", "core", "helpers", "helper", "misc"}
#: Folders of tests that mirror no package.
OWN_FOLDERS = {"contracts", "oracles", "browser", "data"}
#: Tests about the repository rather than a module.
OWN_TESTS = {"test_house", "test_packaging", "test_qprobe", "test_reference"}
#: Packages a person uses without torch.
LIGHT = ("errors", "registry", "native", "inference", "records", "plan", "dashboard", "cli")

# Put together here, so that this file does not break its own rule.
MARKER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b(?!\(#\d+\))")


def modules(root: Path) -> list[Path]:
    folders = ("qprobe", "tests", "benchmarks", "case_studies", "docs")
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def too_long(root: Path) -> list[str]:
    found = []
    for path in modules(root):
        count = len(path.read_text("utf-8").splitlines())
        allowed = LONGEST_TEST if path.is_relative_to(root / "tests") else LONGEST
        if count > allowed:
            found.append(f"{path.relative_to(root)} has {count} lines, {allowed} are allowed")
    return found


def badly_named(root: Path) -> list[str]:
    names = {
        (root / Path(*parts[:depth]), Path(part).stem)
        for path in modules(root)
        for parts in [path.relative_to(root).parts]
        for depth, part in enumerate(parts, start=1)
    }
    return sorted(
        f"{path.relative_to(root)} is named after nothing"
        for path, name in names
        if name in FORBIDDEN
    )


def unnumbered(root: Path) -> list[str]:
    texts = [*modules(root), *(root / "qprobe").rglob("*.[ch]"), *root.glob("*.md")]
    return [
        f"{path.relative_to(root)}:{number}: name the issue: TO" + "DO(#12)"
        for path in texts
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if MARKER.search(line)
    ]


#: Folders of scripts at the top of the repository, mirrored under tests too.
BESIDE_THE_PACKAGE = ("benchmarks", "case_studies", "docs")


def subjects(place: Path) -> list[Path]:
    """What a test may be about: ``test_layers_gradients.py`` is about ``layers`` too."""
    words = place.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    return [place.parent / name for name in names]


def astray(root: Path) -> list[str]:
    """Tests without a module of their name at the same place."""
    tests, package = root / "tests", root / "qprobe"
    found = []
    for path in sorted(tests.rglob("test_*.py")):
        place = path.relative_to(tests)
        if place.parts[0] in OWN_FOLDERS or (len(place.parts) == 1 and path.stem in OWN_TESTS):
            continue
        home = root if place.parts[0] in BESIDE_THE_PACKAGE else package
        modules = [home / f"{subject}.py" for subject in subjects(place)]
        folders = [home / subject / "__init__.py" for subject in subjects(place)]
        if path.stem == f"test_{place.parent.name}":  # about the package's own names
            folders.append(home / place.parent / "__init__.py")
        if not any(file.exists() for file in modules + folders):
            found.append(f"{path.relative_to(root)} mirrors no {modules[0].relative_to(root)}")
    return found


RULES = [too_long, badly_named, unnumbered, astray]


@pytest.mark.parametrize("rule", RULES)
def test_the_repository_keeps_the_rule(rule):
    assert rule(ROOT) == []


BREACHES = {
    "qprobe/long.py": "x = 1\n" * (LONGEST + 1),
    "tests/contracts/test_long.py": "x = 1\n" * (LONGEST_TEST + 1),
    "qprobe/misc/one.py": "",
    "qprobe/quant/utils.py": "",
    "qprobe/later.py": "# TO" + "DO: finish\n# TO" + "DO(#3): allowed\n",
    "tests/quant/test_nothing.py": "",
    "tests/quant/test_utils_of_some_kind.py": "",
    "tests/contracts/test_anything.py": "",
}


@pytest.mark.parametrize(
    ("rule", "sentences"),
    [
        (
            too_long,
            [
                "qprobe/long.py has 401 lines, 400 are allowed",
                "tests/contracts/test_long.py has 601 lines, 600 are allowed",
            ],
        ),
        (
            badly_named,
            ["qprobe/misc is named after nothing", "qprobe/quant/utils.py is named after nothing"],
        ),
        (unnumbered, ["qprobe/later.py:1: name the issue: TO" + "DO(#12)"]),
        (astray, ["tests/quant/test_nothing.py mirrors no qprobe/quant/nothing.py"]),
    ],
)
def test_each_rule_sees_its_breach(rule, sentences, tmp_path):
    for name, text in BREACHES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert rule(tmp_path) == sentences


def test_every_entry_point_is_installed_and_loads():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {
        (group, name, value)
        for group, points in {
            **project["entry-points"],
            "console_scripts": project["scripts"],
        }.items()
        for name, value in points.items()
    }
    installed = distribution("qprobe").entry_points
    assert {(p.group, p.name, p.value) for p in installed} == declared, "run: make setup"
    for point in installed:
        assert point.load() is not None


@pytest.mark.parametrize("limit", ["complexity", "arguments", "statements"])
def test_the_limits_of_ruff_are_switched_on(limit, tmp_path):
    code, source = {
        "complexity": (
            "C901",
            "".join(f"    if a == {i}:\n        return {i}\n" for i in range(9)),
        ),
        "arguments": ("PLR0913", "    return a, b, c, d, e, f\n"),
        "statements": ("PLR0915", "    a = 1\n" * 41),
    }[limit]
    arguments = "a, b, c, d, e, f" if limit == "arguments" else "a"
    path = tmp_path / "subject.py"
    path.write_text(f"def f({arguments}):\n{source}")
    seen = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"),
            *("--config", str(ROOT / "pyproject.toml"), str(path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f" {code} " in seen.stdout


BLOCKED = """
import importlib, pkgutil, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was asked for")

sys.meta_path.insert(0, NoTorch())
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    if not module.name.endswith("._kernels"):  # a plain library, not a module of Python
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    "name", [name for name in LIGHT if list((ROOT / "qprobe").glob(f"{name}*"))]
)
def test_opening_a_run_needs_no_torch(name):
    excused = {"cli": "qprobe.cli.main"}  # a subcommand may import torch when it is called
    command = [sys.executable, "-c", BLOCKED, excused.get(name, f"qprobe.{name}")]
    seen = subprocess.run(command, capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stderr


def package(root: Path, files: dict[str, str]) -> None:
    """A copy of the house with nothing in it but its import contracts and ``files``."""
    layers = ("cli", "dashboard", "quant", "plan", "records", "inference", "registry", "errors")
    for name in (*layers, "native"):
        files = {f"{name}/__init__.py": "", **files}
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "qprobe" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (root / "pyproject.toml").write_text(text)


@pytest.mark.parametrize(
    ("files", "kept", "named"),
    [
        ({"quant/__init__.py": "import torch\nimport qprobe.registry\n"}, True, "2 kept, 0 broken"),
        ({"errors/__init__.py": "import qprobe.registry\n"}, False, "one way; siblings"),
        (
            {"quant/__init__.py": "import qprobe.plan\n", "plan/__init__.py": ""},
            False,
            "one way; siblings",
        ),
        ({"stray/__init__.py": ""}, False, "qprobe.stray"),
        ({"native/__init__.py": "import torch\n"}, False, "never reach torch"),
        (
            {
                "records/__init__.py": "",
                "records/store.py": "import qprobe.native.fast\n",
                "native/fast.py": "import torch.cuda\n",
            },
            False,
            "qprobe.records.store",
        ),
    ],
)
def test_the_import_contracts_see_a_breach(files, kept, named, tmp_path):
    package(tmp_path, files)
    command = Path(sys.executable).with_name("lint-imports")
    seen = subprocess.run(
        [command, "--no-cache", "--no-logo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (seen.returncode == 0) is kept, seen.stdout
    assert named in seen.stdout
