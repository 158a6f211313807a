"""Without the library; with it in tests/probes/test_attach_documented.py."""

from qprobe.integrations.wandb import STEP, WandbSink


class Run:
    def __init__(self):
        self.rows, self.axes = [], {}

    def log(self, data):
        self.rows.append(data)

    def define_metric(self, name, *, step_metric=None):
        self.axes[name] = step_metric


def test_the_numbers_of_a_step_are_one_row():
    sink = WandbSink(run := Run())
    for tag, value, step in (("a", 1.0, 1), ("b", 2.0, 1), ("a", 3.0, 2)):
        sink(tag, value, step)
    assert run.rows == [{STEP: 1, "qprobe/a": 1.0, "qprobe/b": 2.0}]
    sink.flush()
    sink.flush()
    assert run.rows[1:] == [{STEP: 2, "qprobe/a": 3.0}]
    assert run.axes == {STEP: None, "qprobe/*": STEP}


def test_a_number_that_comes_late_has_its_own_step():
    sink = WandbSink(run := Run())
    for step in (9, 10, 10, 3):
        sink("loss", float(step), step)
    sink.flush()
    assert [row[STEP] for row in run.rows] == [9, 10, 3]
