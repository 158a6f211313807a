"""Distributions, built as a stranger would: with a C compiler and without one."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    f"qprobe/native/{path.name}"
    for pattern in ("*.c", "*.h")
    for path in (ROOT / "qprobe" / "native").glob(pattern)
}

needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler here"
)
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    seen = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert seen.returncode == 0, seen.stdout
    return seen.stdout


def tracked() -> list[str]:
    """Files of the repository, new ones included, build outputs not."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the source tree without anything that was built in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def build(checkout: Path, out: Path, **environment: str) -> tuple[Path, Path, str]:
    """sdist, the wheel made from it, and what the build printed."""
    # The build backend is the one of this environment: nothing is downloaded.
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", out, checkout)
    printed = run(*command, cwd=checkout, **environment)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel, printed


@pytest.fixture(scope="module")
def with_compiler(checkout, tmp_path_factory):
    return build(checkout, tmp_path_factory.mktemp("with"))


@pytest.fixture(scope="module", params=["CC names nothing", "nothing in PATH"])
def without_compiler(request, checkout, tmp_path_factory):
    environment = {"CC": "/nonexistent/cc"}
    if request.param == "nothing in PATH":
        environment = {"PATH": str(tmp_path_factory.mktemp("empty"))}
    return build(checkout, tmp_path_factory.mktemp("without"), **environment)


def install(wheel: Path, folder: Path) -> Path:
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*command, "--target", folder, wheel, cwd=folder)
    return folder


PROOF = """
import sys, torch, qprobe
from qprobe import native
from qprobe.quant import NVFP4, QuantSpec, fake_quantize, recipes
assert qprobe.__file__.startswith(sys.argv[1]), qprobe.__file__
x = torch.arange(64.0).reshape(4, 16) - 20
print(native.describe())
print(fake_quantize(x, QuantSpec(format=NVFP4)).tolist())
print(len(recipes()))
"""


def use(folder: Path) -> list[str]:
    """Run the installed package from outside the repository; what it says of itself."""
    command = (sys.executable, "-c", PROOF, str(folder))
    return run(*command, cwd=folder, PYTHONPATH=str(folder)).splitlines()


def in_wheel(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def in_package() -> set[str]:
    """What a wheel holds beside the kernels: the package without their sources."""
    return {name for name in tracked() if name.startswith("qprobe/")} - SOURCES


@needs_compiler
def test_the_wheel_holds_the_package_and_the_kernels_and_nothing_else(with_compiler):
    _, wheel, _ = with_compiler
    kernels = f"qprobe/native/_kernels{EXTENSION_SUFFIXES[0]}"
    assert in_wheel(wheel) == in_package() | {kernels}
    assert "qprobe/py.typed" in in_package()
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert re.fullmatch(rf"qprobe-[\d.]+-{tag}-{tag}-(?!any)\w+\.whl", wheel.name)


@needs_compiler
def test_the_installed_wheel_uses_its_kernels(with_compiler, tmp_path):
    described, *_ = use(install(with_compiler[1], tmp_path))
    assert described.startswith("native C, ")


def check_contents(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        root = sdist.name.removesuffix(".tar.gz")
        names = {name.removeprefix(f"{root}/") for name in archive.getnames()}
    assert names >= {"LICENSE", "README.md", "pyproject.toml"} | SOURCES | in_package()
    with zipfile.ZipFile(wheel) as archive:
        (license_file,) = (n for n in archive.namelist() if n.endswith("/licenses/LICENSE"))
        (points,) = (n for n in archive.namelist() if n.endswith("/entry_points.txt"))
        assert b"Apache License" in archive.read(license_file)
        assert b"qprobe = qprobe.cli.main:run" in archive.read(points)


@needs_compiler
def test_with_a_compiler_both_distributions_carry_what_a_stranger_needs(with_compiler):
    check_contents(*with_compiler[:2])


def test_without_a_compiler_both_distributions_carry_it_too(without_compiler):
    check_contents(*without_compiler[:2])


def test_without_a_compiler_the_build_warns_and_goes_on(without_compiler):
    _, wheel, printed = without_compiler
    assert 'building extension "qprobe.native._kernels" failed' in printed
    assert in_wheel(wheel) == in_package()


def test_without_a_compiler_the_package_works_and_says_why(without_compiler, tmp_path):
    described, values, count = use(install(without_compiler[1], tmp_path))
    assert described == "PyTorch (not built: no working C compiler when qprobe was installed)"
    assert int(count) >= 17
    here = run(sys.executable, "-c", PROOF, str(ROOT), cwd=ROOT).splitlines()
    assert values == here[1]


@needs_compiler
def test_an_editable_install_compiles_again_when_the_kernels_change(checkout, tmp_path):
    """What `make setup` does after its first run; the stamp file decides when."""
    source = tmp_path / "source"
    shutil.copytree(checkout, source)
    kernels = source / "qprobe" / "native" / "kernels.c"
    (library,) = (kernels.with_name(f"_kernels{EXTENSION_SUFFIXES[0]}"),)
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    editable = (*command, "--no-build-isolation", "--target", tmp_path / "site", "-e", source)
    run(*editable, cwd=source)
    before = library.read_bytes()
    text = kernels.read_text("utf-8")
    assert text.count("int qprobe_abi(void)") == 1
    kernels.write_text(text + "\nEXPORT int qprobe_marker_of_a_test(void) { return 41; }\n")
    run(*editable, "--upgrade", cwd=source)
    assert b"qprobe_marker_of_a_test" not in before
    assert b"qprobe_marker_of_a_test" in library.read_bytes()


def test_the_example_of_contributing_installs_and_is_listed(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    blocks = re.findall(r"^```(?:toml|python) title=(\S+)\n(.*?)^```", text, re.M | re.S)
    assert [name for name, _ in blocks] == ["pyproject.toml", "my_recipes.py"]
    for name, block in blocks:
        (tmp_path / name).write_text(block)
    site = tmp_path / "site"
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*command, "--no-build-isolation", "--target", site, tmp_path, cwd=tmp_path)
    listing = (sys.executable, "-c", "from qprobe.cli.main import run; run()", "list", "recipes")
    *_, last = run(*listing, cwd=site, PYTHONPATH=str(site)).splitlines()
    assert last.split()[:7] == ["weights-2d", "–", "nvfp4/2d", "–", "fprop's", "–", "–"]


@pytest.fixture
def house(checkout, tmp_path):
    """A checkout whose virtual environment only notes what it was asked to do."""
    source = tmp_path / "source"
    shutil.copytree(checkout, source)
    python = source / ".fake-python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        '  "-c "*) exec python3 "$@" ;;\n'
        '  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;\n'
        "esac\n"
        'echo "$@" >> calls\n'
    )
    python.chmod(0o755)
    return source


def make(house: Path, *words: str) -> list[str]:
    """Run make; the calls of Python that it made."""
    calls = house / "calls"
    calls.unlink(missing_ok=True)
    run("make", "PYTHON=./.fake-python", *words, cwd=house)
    return calls.read_text().splitlines() if calls.exists() else []


def test_make_setup_runs_once_and_again_when_what_it_installs_changes(house):
    install = "-m pip install --quiet -c constraints.txt -e .[dev]"
    assert install in make(house, "setup")
    assert make(house, "setup") == []
    for name in ("pyproject.toml", "constraints.txt", *SOURCES):
        later = (house / ".venv/.installed").stat().st_mtime + 10
        os.utime(house / name, (later, later))
        assert install in make(house, "setup"), name
        os.utime(house / name, (1, 1))
    assert make(house, "setup") == []


def test_make_test_passes_words_on(house):
    (*_, call) = make(house, "test", "ARGS=-k nvfp4", "WORKERS=3")
    assert call == "-m pytest -n 3 -m not slow and not gpu -k nvfp4"


def test_make_names_the_python_it_needs(house):
    python = house / ".fake-python"
    python.write_text('#!/bin/sh\nexec python3 -c "import sys; sys.version_info = (3, 9, 1); $2"\n')
    command = ("make", "setup", "PYTHON=./.fake-python")
    seen = subprocess.run(command, cwd=house, capture_output=True, text=True, check=False)
    assert seen.returncode != 0
    assert "qprobe needs Python 3.11 or newer, ./.fake-python is 3.9" in seen.stderr
    assert not (house / ".venv").exists()
