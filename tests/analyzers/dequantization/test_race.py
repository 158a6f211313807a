"""Who leaves, who is measured, and when a race is over; models are numbers here."""

import numpy as np
import pytest

from qprobe.analyzers.dequantization import race as race_of_layers
from qprobe.analyzers.dequantization.evaluation import Judged
from qprobe.analyzers.dequantization.race import Race, Stop
from qprobe.inference import Resampling, replicate


class Table:
    """An evaluation whose scores are written down: ``values[name]`` is a score for each sample."""

    def __init__(self, values: dict[str, float], noise: float, batches: int = 8) -> None:
        random = np.random.default_rng(0)
        shared = random.normal(size=(batches, 6))
        self.values = {
            name: shared + value + noise * random.normal(size=shared.shape)
            for name, value in values.items()
        }
        self.base = Judged(parts=[self._with_count(part) for part in shared])
        self.sizes = [6] * batches
        self.groups = list(range(6 * batches))
        self.again: dict[str, float] = {}
        self.seen = 0

    def evaluate(self, variants, into, stop=None) -> None:
        for name in variants:
            while into[name].batches < stop:
                part = self.values[name][into[name].batches]
                into[name].parts.append(self._with_count(part))
                self.seen += 1

    def score(self, judged: Judged, batches: int) -> float | None:
        return float(judged.statistics(batches)[:, 0].mean())

    def score_of_all(self, judged: Judged, batches: int) -> float:
        seen, rest = judged.statistics(batches), self.base.parts[batches:]
        return float(np.concatenate([seen, *rest])[:, 0].mean())

    def replicates(self, judged: Judged, batches: int | None = None, draws: int = 0):
        resampling = Resampling(generator=np.random.default_rng(0), draws=draws or 400)
        return replicate(
            judged.statistics(batches), lambda totals: totals[:, 0] / totals[:, 1], resampling
        )

    @staticmethod
    def _with_count(part):
        return np.stack([part, np.ones_like(part)], axis=1)


@pytest.fixture
def narrow(monkeypatch):
    """Seven run for a best two, five after a quarter and after a half, four after three."""
    monkeypatch.setattr(race_of_layers, "WIDTHS", (3.2, 2.4, 2.2, 2.0))


def race(values: dict[str, float], screen: dict[str, float], **more):
    table = Table(values, more.pop("noise", 0.1))
    runner = Race(table, 2, more.pop("affords", lambda lot: True), screen=screen, **more)
    order = sorted(values, key=lambda name: -screen.get(name, np.inf))
    return runner, runner.run(order, dict.fromkeys(values)), table


LAYERS = {f"l{n}": value for n, value in enumerate([5.0, 4.0, *[0.1 * n for n in range(18)]])}


def test_a_good_screen_ends_it_early():
    runner, stop, table = race(LAYERS, LAYERS)
    assert stop is Stop.DECIDED
    assert runner.best() == ["l0", "l1"]
    assert set(runner.finished) == {"l0", "l1", *(f"l{n}" for n in range(16, 20))}  # for a best two
    assert set(runner.left) == {"l14", "l15"}
    assert table.seen == 2 * (8 + 7 + 6 + 6)  # batches: the first lot, and no other


def test_a_layer_the_screen_knows_nothing_of_is_run():
    screen = {name: value for name, value in LAYERS.items() if name != "l1"}
    runner, _, _ = race(LAYERS, screen)
    assert runner.best() == ["l0", "l1"]


def test_a_screen_that_tells_nothing_costs_more_and_the_answer_is_still_right():
    """Were it upside down, the race would end too early: what the rank agreement is there for."""
    shuffled = {name: LAYERS[name] for name in sorted(LAYERS, key=lambda name: name[::-1])}
    runner, stop, table = race(shuffled, dict.fromkeys(shuffled, 1.0))
    assert runner.best() == ["l0", "l1"]
    assert stop is Stop.ALL
    assert table.seen > 0.25 * 8 * len(LAYERS)


def test_the_budget_ends_it_after_the_first_lot():
    screen = {name: 6.0 - value for name, value in LAYERS.items()}
    runner, stop, _ = race(LAYERS, screen, affords=lambda lot: False)
    assert stop is Stop.BUDGET
    assert len(runner.finished) + len(runner.left) == 8  # 3.6 times two, rounded up


def test_each_look_leaves_a_share_of_the_lot():
    """Eight see the first quarter, seven the second, six the others: two batches each."""
    runner, _, table = race(
        dict.fromkeys(LAYERS, 0.0), dict.fromkeys(LAYERS, 1.0), affords=lambda lot: False
    )
    assert (len(runner.left), len(runner.finished)) == (2, 6)
    assert table.seen == 2 * (8 + 7 + 6 + 6)


def test_who_leaves_has_the_difference_to_the_base_on_what_it_saw(narrow):
    values = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0, "f": 0.5}
    runner, _, _ = race(values, values, noise=0.0)
    assert set(runner.finished) == {"a", "b", "c", "d"}
    assert runner.left == {"e": pytest.approx(1.0), "f": pytest.approx(0.5)}


def test_a_score_that_the_first_batches_leave_undefined_sends_nobody_home(monkeypatch):
    monkeypatch.setattr(Table, "score", lambda self, judged, batches: None)
    runner, _, _ = race(LAYERS, LAYERS, affords=lambda lot: False)
    assert (len(runner.left), len(runner.finished)) == (0, 8)


def test_what_is_finished_is_not_run_again():
    runner, _, _ = race(LAYERS, LAYERS)
    table = Table(LAYERS, 0.1)
    again = Race(table, 2, lambda lot: True, dict(runner.finished), screen=LAYERS)
    again.run(sorted(LAYERS, key=lambda name: -LAYERS[name]), dict.fromkeys(LAYERS))
    assert again.best() == ["l0", "l1"]
    assert table.seen == 0


def test_what_costs_little_goes_first_and_stays_longer(narrow):
    """Of equal layers the last three take the places 3 to 5, and at the looks the first ones."""
    values = dict.fromkeys([f"l{n}" for n in range(12)], 0.0)
    table = Table(values, 0.0)
    table.again = dict.fromkeys(["l9", "l10", "l11"], 0.05)
    runner = Race(table, 2, lambda lot: False, screen=dict.fromkeys(values, 1.0))
    runner.run(list(values), dict.fromkeys(values))
    assert set(runner.finished) == {"l0", "l9", "l10", "l11"}
    assert set(runner.left) == {"l1", "l2", "l3"}


def test_what_is_not_seen_yet_is_expected_to_gain_what_the_screen_says(narrow):
    """By what was seen ``b`` is second best, and ``d`` nothing; a loss is not expected."""
    values = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0, "e": -1.0, "f": 1.0}
    screen = {"a": 0.0, "b": -6.5, "c": 4.5, "d": 9.0, "e": 0.0, "f": 4.0}
    runner, _, _ = race(values, screen, noise=0.0, unsure=dict.fromkeys(values, 0.0))
    assert set(runner.finished) == {"a", "c", "d", "f"}
    assert runner.left == {  # after a quarter, and after three
        "e": pytest.approx(0.25 * -1.0),
        "b": pytest.approx(0.75 * 2.0),
    }


def test_of_a_layer_that_is_hard_to_foretell_half_a_standard_error_more_is_hoped(narrow):
    """All predicted to gain nothing; ``e`` loses 4, of which a quarter was seen, and may gain 8."""
    values = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.5, "e": -4.0, "f": 0.0}
    unsure = {**dict.fromkeys(values, 0.0), "e": 16.0}
    runner, _, _ = race(values, dict.fromkeys(values, 0.0), noise=0.0, unsure=unsure)
    assert runner.left == {
        "f": pytest.approx(0.0),
        "e": pytest.approx(0.75 * -4.0 + 0.25 * 0.5 * 16.0),  # not before the third look
    }


def test_a_gain_that_the_screen_does_not_know_is_what_was_seen():
    screen = {name: value for name, value in LAYERS.items() if name != "l1"}
    runner, _, _ = race(LAYERS, screen, unsure=dict.fromkeys(screen, 0.0))
    assert runner.best() == ["l0", "l1"]
