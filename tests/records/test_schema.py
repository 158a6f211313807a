import numpy as np
import pytest
from sample_runs import finding

from qprobe.errors import InputError
from qprobe.records import Array, Cause, Column, Finding, Record, Role, Severity, severity


def test_a_finding_has_n_and_an_interval():
    fields = {name: getattr(finding(), name) for name in Finding.__dataclass_fields__}
    for missing in ("n", "low", "high", "effect"):
        with pytest.raises(TypeError, match=missing):
            Finding(**{name: value for name, value in fields.items() if name != missing})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n", 0, "n = 0"),
        ("n", None, "n = None"),
        ("n", True, "n = True"),
        ("n", 2.5, "n = 2.5"),
        ("low", float("nan"), "low = nan"),
        ("high", None, "high = None"),
        ("effect", "2 %", "effect = '2 %'"),
        ("low", 0.5, r"interval \[0.5, 0.02\]"),
        ("cause", "bad luck", "cause 'bad luck'"),
        ("severity", "fatal", "severity 'fatal'"),
        ("roles", ("tail",), "role 'tail'"),
    ],
)
def test_a_finding_refuses_what_it_cannot_stand_for(field: str, value: object, message: str):
    with pytest.raises(InputError, match=message):
        finding(**{field: value})


def test_a_finding_turns_texts_into_enums_and_takes_numpy_numbers():
    made = finding(n=np.int64(7), effect=np.float32(0.5), low=-np.inf, high=np.inf)
    assert made.cause is Cause.CHANNEL_OUTLIER
    assert made.severity is Severity.WARN
    assert made.roles == (Role.INPUT,)


@pytest.mark.parametrize(
    ("low", "unscored", "expected"),
    [
        (0.02, Severity.INFO, Severity.CRITICAL),
        (np.nextafter(0.02, 0), Severity.CRITICAL, Severity.WARN),
        (0.005, Severity.INFO, Severity.WARN),
        (np.nextafter(0.005, 0), Severity.CRITICAL, Severity.INFO),
        (-np.inf, Severity.WARN, Severity.INFO),
        (None, Severity.INFO, Severity.INFO),
        (None, Severity.WARN, Severity.WARN),
        (None, Severity.CRITICAL, Severity.WARN),
    ],
)
def test_severity_rests_on_the_lower_bound(
    low: float | None, unscored: Severity, expected: Severity
):
    assert severity(low, unscored=unscored) is expected


def test_severity_of_nan_is_an_error():
    with pytest.raises(InputError, match="NaN"):
        severity(float("nan"))


def test_severities_are_ordered():
    order = [Severity.INFO, Severity.WARN, Severity.CRITICAL]
    for i, high in enumerate(order):
        assert [high.reaches(low) for low in order] == [j <= i for j in range(3)]


def test_a_record_knows_its_column():
    record = Record("r", 3, "head", "input", "summary", "kurtosis", 3.0)
    assert record.column == Column("head", "input", "summary", "kurtosis")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(2**17 + 1), "bytes, more than"),
        (np.zeros(1, dtype=object), "dtype object"),
        (np.zeros(1, dtype=complex), "dtype complex128"),
        (np.zeros(1, dtype=np.longdouble), "dtype float128"),
        (np.array(["a"]), "dtype <U1"),
    ],
)
def test_an_array_is_small_and_numeric(data: np.ndarray, message: str):
    with pytest.raises(InputError, match=f"the array head output histogram log2 .*{message}"):
        Array(step=0, site="head", role="output", probe="histogram", key="log2", data=data)


def test_an_array_of_exactly_one_mebibyte_fits():
    array = Array(step=0, site="", role="", probe="", key="", data=np.zeros((512, 512), "f4"))
    assert array.data.nbytes == 2**20
