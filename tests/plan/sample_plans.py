"""Records and plans that the tests of plans share."""

from qprobe.plan import Plan, choose, evidence, keep
from qprobe.records import Record

#: Names that some tool would read as a pattern, a class or a longer name.
TRICKY = ("a.b", "a.bb", "a[0].b*", "blocks.1.fc?", "re:x", "Linear", "x{2}+(y)|z", 'it\'s "q"')


def record(site: str, key: str, value: float, step: int = 0) -> Record:
    return Record("run", step, site, "", "dequantization", key, value)


def whole(score_fp: float = 0.9, score_q: float = 0.7, **more: float) -> list[Record]:
    values = {"score_fp": score_fp, "score_q": score_q, "n": 40, **more}
    return [record("", key, value) for key, value in values.items()]


def layer(path: str, parameters: int, recovery: float | None = None, **more: float) -> list[Record]:
    values: dict[str, float] = {"parameters": parameters}
    if recovery is not None:
        limits = {"recovery_low": recovery - 0.01, "recovery_high": recovery + 0.01}
        values |= {"recovery": recovery, **limits}
    return [record(path, key, value) for key, value in (values | more).items()]


def tricky_plan(recipe: str = "nvfp4", kept: int = 4) -> Plan:
    """The first names kept, the others quantized."""
    records = whole()
    for at, path in enumerate(TRICKY):
        records += layer(path, 10, 0.1 - 0.01 * at)
    return choose(evidence(records), keep(str(kept)), recipe)
