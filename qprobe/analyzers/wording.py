"""Numbers and counts as reports say them."""

from collections.abc import Iterable, Mapping

from qprobe.inference import Interval
from qprobe.records.schema import Json

#: Below this three decimals show nothing.
_SMALL = 0.002


def number(value: float) -> str:
    """Three decimals, or as many significant digits where that would hide a small number.

    >>> number(0.1216), number(-0.004), number(0.000123), number(0.0)
    ('0.122', '−0.004', '0.000123', '0.000')
    """
    form = ".3f" if value == 0.0 or abs(value) >= _SMALL else ".3g"
    return f"{value + 0.0:{form}}".replace("-", "−")


def signed(value: float) -> str:
    """The same with its sign.

    >>> signed(0.0735), signed(-0.0014)
    ('+0.073', '−0.0014')
    """
    return f"{'+' if value >= 0.0 else ''}{number(value)}"


def limits(found: Interval) -> str:
    """Limits as text.

    >>> limits(Interval(estimate=0.1, low=-0.004, high=0.2, level=0.95, n=3, method=""))
    '[−0.004, 0.200]'
    """
    return f"[{number(found.low)}, {number(found.high)}]"


def counted(count: int, what: str) -> str:
    """How many of what, whose plural has an s.

    >>> counted(1, "layer"), counted(16384, "element")
    ('1 layer', '16,384 elements')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def listed(names: list[str], most: int = 5) -> str:
    """Names as a sentence lists them, those beyond the first few as a number.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c", "d"], most=2)
    ('a', 'a and b', 'a, b and 2 more')
    """
    shown = names[:most]
    rest = len(names) - len(shown)
    *first, last = [*shown, f"{rest} more"] if rest else shown
    return f"{', '.join(first)} and {last}" if first else last


def parted(before: Mapping[str, Json], now: Mapping[str, Json], names: Iterable[str]) -> str:
    """In which of the names two configurations differ, in words; empty where in none.

    >>> parted({"only": [], "verify": True}, {"only": ["weights"], "verify": False},
    ...        ("only", "verify"))
    'only none, not weights; verify yes, not no'
    """
    return "; ".join(
        f"{name} {_said(before.get(name))}, not {_said(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    )


def _said(value: Json) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
