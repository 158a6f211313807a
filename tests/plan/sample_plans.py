"""Records and plans that the tests of plans share."""

from qprobe.plan import Plan, choose, evidence, keep
from qprobe.records import Record

#: Names that some tool would read as a pattern, a class or a longer name.
TRICKY = ("a.b", "a.bb", "a[0].b*", "blocks.1.fc?", "re:x", "Linear", "x{2}+(y)|z", 'it\'s "q"')


def record(site: str, key: str, value: float, step: int = 0) -> Record:
    return Record("run", step, site, "", "dequantization", key, value)


def interval(site: str, key: str, value: float, step: int = 0, half: float = 0.01) -> list[Record]:
    values = {"": value, ".low": value - half, ".high": value + half, ".n": 40}
    return [record(site, key + part, one, step) for part, one in values.items()]


def whole(score_fp: float = 0.9, score_q: float = 0.7) -> list[Record]:
    return [
        *interval("", "score.high_precision", score_fp),
        *interval("", "score.quantized", score_q),
    ]


def layer(path: str, parameters: int, recovery: float | None = None, **more: float) -> list[Record]:
    found = [record(path, "parameters", parameters)]
    if recovery is not None:
        found += interval(path, "recovery", recovery)
    return [*found, *(record(path, key, value) for key, value in more.items())]


def tricky_plan(recipe: str = "nvfp4", kept: int = 4) -> Plan:
    """The first names kept, the others quantized."""
    records = whole()
    for at, path in enumerate(TRICKY):
        records += layer(path, 10, 0.1 - 0.01 * at)
    return choose(evidence(records), keep(str(kept)), recipe)
