"""The file against a dictionary: whatever is recorded in whatever order, the same comes back."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_runs import INFO, columns

import qprobe
from qprobe.records import Batch, Column, Layout, RunReader, RunWriter, create, resume

Reference = dict[Column, dict[int, float]]

COLUMNS = columns(13)
# Two layouts that share columns 3..6, with a partial last block and a partial last segment.
LAYOUTS = (COLUMNS[:7], COLUMNS[3:12])
SINGLE = COLUMNS[12]

actions = st.lists(
    st.one_of(
        st.tuples(st.just("flush"), st.integers(0, 1), st.integers(0, 2**16)),
        st.tuples(st.just("point"), st.just(0), st.integers(0, 2**16)),
        st.tuples(st.just("commit"), st.just(0), st.just(0)),
        st.tuples(st.just("resume"), st.integers(0, 12), st.just(0)),
    ),
    min_size=1,
    max_size=40,
)


def values(seed: int, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    random = np.random.default_rng(seed)
    drawn = random.standard_normal(count)
    if seed % 2:
        drawn = drawn.astype(np.float32).astype(np.float64)
    drawn[random.random(count) < 0.1] = np.nan
    drawn[random.random(count) < 0.1] = np.inf
    return drawn, random.random(count) < 0.7 if seed % 3 == 0 else None


def record(run: RunWriter, layout: Layout, step: int, seed: int, reference: Reference) -> None:
    drawn, present = values(seed, len(layout))
    run.records(step, Batch(layout=layout, values=drawn, present=present))
    for place, column in enumerate(layout.columns):
        if present is None or present[place]:
            reference.setdefault(column, {})[step] = drawn[place]


def check_last(reader: RunReader, whole: Reference) -> None:
    reference = {column: series for column, series in whole.items() if series}
    newest = max((max(series) for series in reference.values()), default=0)
    for until in (newest // 2, newest):
        expected = {
            column: (step, series[step])
            for column, series in reference.items()
            for step in [max((step for step in series if step <= until), default=None)]
            if step is not None
        }
        found = dict(reader.last(until=until))
        assert set(found) == set(expected)
        both = np.array([(*found[column], *expected[column]) for column in found]).reshape(-1, 4)
        np.testing.assert_array_equal(both[:, :2], both[:, 2:])


def check(reader: RunReader, reference: Reference) -> None:
    check_last(reader, reference)
    found = dict(reader.select())
    assert set(found) == {column for column, series in reference.items() if series}
    for column, series in found.items():
        expected = dict(sorted(reference[column].items()))
        assert series.steps.tolist() == list(expected)
        np.testing.assert_array_equal(series.values, list(expected.values()), strict=False)
        alone = reader.series(*column)
        np.testing.assert_array_equal(alone.steps, series.steps)
        np.testing.assert_array_equal(alone.values, series.values)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions)
@pytest.mark.usefixtures("small")
def test_what_was_recorded_comes_back(script: list[tuple[str, int, int]]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.qprobe"
        reference: Reference = {}
        run = create(path, INFO)
        step = 0
        for action, choice, seed in script:
            if action == "flush":
                record(run, run.layout(LAYOUTS[choice]), step, seed, reference)
                step += 1
            elif action == "point":
                run.record(step, SINGLE, seed / 7)
                reference.setdefault(SINGLE, {})[step] = seed / 7
                step += 1
            elif action == "commit":
                run.flush()
                with qprobe.open(path) as reader:
                    check(reader, reference)
            else:
                run.close()
                step = max(0, step - choice)
                run = resume(path, after_step=step - 1)
                for series in reference.values():
                    for late in [known for known in series if known >= step]:
                        del series[late]
        run.close()
        with qprobe.open(path) as reader:
            check(reader, reference)


def test_a_wide_layout_in_the_real_geometry(path: Path):
    reference: Reference = {}
    with create(path, INFO, background=True) as run:
        layout = run.layout(columns(4200))  # three segments, the last one partial
        for step in range(0, 300, 2):
            record(run, layout, step, 6 * step + 2 * (step % 5 == 0), reference)
            run.flush()
    with qprobe.open(path) as reader:
        check(reader, reference)
