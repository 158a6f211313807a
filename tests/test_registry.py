import subprocess
import sys
import textwrap

import pytest

from qprobe.errors import InputError, QprobeError, UnknownNameError
from qprobe.registry import Registry

GROUP = "qprobe.test_kinds"


def checked(name: str, obj: object) -> int:
    if not isinstance(obj, int):
        raise InputError(f"{name} is a {type(obj).__name__}, not a number.")
    return obj


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with entry points on ``sys.path``, as an installer would."""
    monkeypatch.syspath_prepend(tmp_path)
    installed: list[str] = []

    def _install(distribution: str, points: dict[str, str], group: str = GROUP, source: str = ""):
        module = distribution.replace("-", "_")
        installed.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        return tmp_path

    yield _install
    for module in installed:
        sys.modules.pop(module, None)


def registry() -> Registry[int]:
    return Registry(GROUP, "kind", checked)


def test_names_of_any_distribution_are_found_in_order(install):
    install("first-one", {"b": "first_one:B", "c": "first_one:C"}, source="B = 2\nC = 3")
    install("second-one", {"a": "second_one:A"}, source="A = 1")
    kinds = registry()
    assert kinds.names() == ["a", "b", "c"]
    assert list(kinds) == [1, 2, 3]
    assert kinds.get("b") == 2


def test_listing_the_names_loads_nothing(install):
    install("explosive", {"bang": "explosive:X"}, source="raise SystemError('loaded')")
    assert registry().names() == ["bang"]
    assert "explosive" not in sys.modules


def test_an_object_is_loaded_and_checked_once(install):
    install("one-only", {"one": "one_only:ONE"}, source="ONE = 1")
    seen = []
    kinds = Registry(GROUP, "kind", lambda name, obj: seen.append(name) or obj)
    assert (kinds.get("one"), kinds.get("one")) == (1, 1)
    assert seen == ["one"]


def test_an_object_of_the_wrong_kind_is_refused(install):
    install("wordy", {"word": "wordy:WORD"}, source="WORD = 'one'")
    with pytest.raises(InputError, match=r"^word is a str, not a number\.$"):
        registry().get("word")


def test_a_name_declared_twice_says_by_whom(install):
    install("mine", {"same": "mine:A"}, source="A = 1")
    install("yours", {"same": "yours:A"}, source="A = 2")
    with pytest.raises(InputError, match="kind 'same' is declared twice") as refused:
        registry().names()
    for part in ("mine:A of mine", "yours:A of yours", "uninstall or rename one"):
        assert part in str(refused.value)


def test_the_same_object_declared_twice_is_one(install):
    install("mine", {"same": "mine:A"}, source="A = 1")
    install("copy-of-mine", {"same": "mine:A"})
    assert list(registry()) == [1]


@pytest.mark.parametrize(
    ("value", "source", "reason"),
    [
        ("broken:X", "import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("broken:X", "1 / 0", "ZeroDivisionError: division by zero"),
        ("broken:X", "", "AttributeError: module 'broken' has no attribute 'X'"),
    ],
)
def test_a_broken_entry_point_says_whose_it_is_and_why(install, value, source, reason):
    install("broken", {"bad": value}, source=source)
    with pytest.raises(QprobeError) as refused:
        registry().get("bad")
    assert str(refused.value) == (
        f"the kind 'bad' (broken:X of broken) could not be imported: {reason}; "
        "repair or uninstall what ships it."
    )
    assert refused.value.__cause__ is not None


def test_an_error_of_ours_in_a_foreign_module_stays_itself(install):
    source = "from qprobe.errors import InputError\nraise InputError('two tiles.')"
    install("contrary", {"bad": "contrary:X"}, source=source)
    with pytest.raises(InputError, match=r"^two tiles\.$"):
        registry().get("bad")


def test_an_unknown_name_gets_the_nearest_ones(install):
    install("names", {"nvfp4-sr": "names:A", "nvfp4-chain": "names:A", "zebra": "names:A"})
    with pytest.raises(UnknownNameError, match=r"no kind called 'nvfp4-s'; did you mean") as near:
        registry().get("nvfp4-s")
    assert "'nvfp4-sr'" in str(near.value)
    assert "zebra" not in str(near.value)
    with pytest.raises(UnknownNameError, match="known: nvfp4-chain, nvfp4-sr, zebra"):
        registry().get("quite another")


def test_an_empty_registry_says_so():
    assert registry().names() == []
    with pytest.raises(UnknownNameError, match=r"no kind called 'x'; known: none\."):
        registry().get("x")


def test_register_adds_for_this_process_and_never_replaces(install):
    install("shipped", {"shipped": "shipped:A"}, source="A = 1")
    kinds = registry()
    assert kinds.register("mine", 7) == 7
    assert kinds.names() == ["mine", "shipped"]
    assert kinds.get("mine") == 7
    for name in ("mine", "shipped"):
        with pytest.raises(InputError, match=f"kind '{name}' is registered already"):
            kinds.register(name, 8)
    with pytest.raises(InputError, match="not a number"):
        kinds.register("text", "8")
    assert kinds.names() == ["mine", "shipped"]
    assert registry().names() == ["shipped"]


THIRD_PARTY = """
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec

WEIGHT_ONLY = QuantRecipe(
    name="weight-only",
    fprop=Gemm(b=QuantSpec(format=NVFP4)),
    summary="weights in NVFP4, activations as they are",
    reference="a test",
)
"""


def test_a_recipe_of_another_distribution_is_a_recipe(install):
    """In a fresh process, through everything between an entry point and the command line."""
    points = {"weight-only": "their_recipes:WEIGHT_ONLY"}
    folder = install("their-recipes", points, "qprobe.recipes", THIRD_PARTY)
    code = f"""
import sys
sys.path.insert(0, {str(folder)!r})
from qprobe.cli.main import main
from qprobe.quant import recipe, recipes
assert recipes()[-1] is recipe("weight-only")
assert recipes()[0].name == "bf16"
sys.exit(main(["list", "recipes"]))
"""
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stderr
    last = seen.stdout.splitlines()[-1]
    assert last.split()[:7] == ["weight-only", "–", "nvfp4/1d", "–", "–", "–", "–"]
    assert last.endswith("weights in NVFP4, activations as they are")
