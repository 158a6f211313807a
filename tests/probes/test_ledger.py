from qprobe import records
from qprobe.probes import ledger
from qprobe.probes.ledger import Ledger
from qprobe.records import Column


def test_keys_that_come_later_join_the_columns(tmp_path):
    info = records.RunInfo(config={}, environment={})
    path = tmp_path / "x.qprobe"
    one, two = Column("a", "input", "p", "n"), Column("a", "input", "p", "snr")
    book = Ledger(records.create(path, info), owned=True, sinks=())
    book.scalars(1, {one: 1.0})
    book.scalars(2, {one: 2.0, two: float("nan")})
    book.scalars(3, {one: 3.0})
    book.close(records.Status.FINISHED, None)
    with records.open(path) as run:
        assert run.series(*one).values.tolist() == [1.0, 2.0, 3.0]
        assert run.series(*two).steps.tolist() == [2]  # missing is neither zero nor NaN


def test_the_latest_records_are_kept(monkeypatch):
    monkeypatch.setattr(ledger, "KEPT", 3)
    book = Ledger(None, owned=False, sinks=())
    for step in range(5):
        book.scalar(step, Column("", "", "training", "loss"), 0.0)
    assert [record.step for record in book.records] == [2, 3, 4]
