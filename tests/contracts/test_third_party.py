"""A probe that somebody else ships: found by its entry point, and held to the same promises.

The code is that of docs/howto/write-a-probe.md, installed as a distribution of its own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "write-a-probe.md").read_text("utf-8")
FILE = re.compile(r"```python\n# zero_share\.py(?:, continued)?\n(.*?)```", re.DOTALL)
USE = re.compile(r"```python\n(import torch, qprobe.*?)```\s+prints `(.*?)`", re.DOTALL)
DECLARED = re.compile(r"```toml\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which the distribution is installed, by pip and without a network."""
    source, target = tmp_path_factory.mktemp("zero-share"), tmp_path_factory.mktemp("installed")
    (source / "zero_share.py").write_text("\n".join(FILE.findall(PAGE)))
    (source / "pyproject.toml").write_text(DECLARED.search(PAGE)[1])
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--no-compile")
    pip = [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(source)]
    subprocess.run(pip, check=True, capture_output=True)
    path = os.pathsep.join([str(target), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def python(environment, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_keeps_its_word_on_length_and_result(environment):
    lines = [line for line in "\n".join(FILE.findall(PAGE)).splitlines() if line.strip()]
    assert len(lines) < 30
    code, expected = USE.search(PAGE).groups()
    assert python(environment, "-c", code).strip() == expected


def test_it_is_found_by_name_and_among_the_default_ones(environment):
    code = (
        "import torch, qprobe\n"
        "for probes in ('zero_share', 'default'):\n"
        "    model = torch.nn.Linear(4, 2)\n"
        "    with qprobe.attach(model, probes=probes) as session:\n"
        "        model(torch.ones(3, 4)).sum().backward()\n"
        "        session.step()\n"
        "    print([r.value for r in session.records() if r.probe == 'zero_share'])\n"
    )
    assert python(environment, "-c", code).splitlines() == ["[12.0, 0.0]"] * 2
    assert "zero_share" in python(environment, "-m", "qprobe", "list")


def test_it_passes_the_contract_tests_by_being_installed(environment):
    arguments = ("-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "zero_share")
    contract = str(ROOT / "tests" / "contracts" / "test_session_contract.py")
    said = python(environment, "-m", "pytest", *arguments, contract)
    assert int(re.search(r"(\d+) passed", said)[1]) >= 3
