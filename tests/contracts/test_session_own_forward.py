"""What is said of a layer that is a linear or a convolution by its class alone."""

import pytest
import torch
from plain_probes import under_a_recipe
from torch import nn
from torch.nn.utils import parametrizations

import qprobe
from qprobe import records
from qprobe.probes.base import PROBES

#: Probes whose numbers are about the products of a layer.
JUDGING = {
    *("block_scales", "four_bit", "gradient_fidelity", "operand_error", "output_error"),
    "prediction_levels",
}


@pytest.mark.parametrize(("plain", "shape"), [(nn.Linear, (4, 8)), (nn.Conv2d, (2, 8, 4, 4))])
def test_a_layer_that_computes_its_own_is_seen_and_not_judged(plain, shape, tmp_path):
    """Its tensors are what they are; of products that it may not compute nothing is said."""

    class Own(plain):
        def forward(self, x):
            return super().forward(x) * 2

    x, sizes = torch.randn(shape), (8, 8) if plain is nn.Linear else (8, 8, 1)
    model = nn.Sequential(Own(*sizes), plain(*sizes))
    probes = [under_a_recipe(probe) for probe in PROBES if probe.name in JUDGING | {"moments"}]
    always = dict.fromkeys((probe.name for probe in probes), 1)
    with qprobe.attach(model, tmp_path / "x.qprobe", probes, schedule=always) as session:
        for _ in range(2):
            model(x).square().sum().backward()
            session.step()
    with records.open(tmp_path / "x.qprobe") as run:
        found = {site: {r.probe for r in run.records() if r.site == site} for site in "01"}
        (said,) = run.series("0", "", "session", "own_forward").values
        widths = run.series("0", "input", "moments", "n").values.tolist()
    assert found == {"0": {"moments", "session"}, "1": {"moments", *JUDGING}}
    assert said == 1.0
    assert widths == [x.numel()] * 2
    assert session.report().own == ("0",)
    assert "No product is judged of what has a forward or a weight of its own: 0." in str(
        session.report()
    )


def test_a_weight_that_is_computed_is_not_read_and_its_operands_are():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8))
    probes = [under_a_recipe(probe) for probe in PROBES if probe.name in JUDGING]
    with qprobe.attach(model, probes=probes, schedule=dict.fromkeys(JUDGING, 1)) as session:
        model(torch.randn(4, 8)).square().sum().backward()
        session.step()
    roles = {(r.probe, r.role) for r in session.records() if r.site == "0"}
    assert roles >= {("operand_error", "input"), ("operand_error", "grad_output")}
    assert not {one for one in roles if one[1] == "weight" or one[0] == "gradient_fidelity"}
    assert session.report().own == ()


def test_weights_that_no_site_has_are_told(tmp_path):
    """A recurrent layer's tensors are nobody's: better said than missed in silence."""

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    model = Reader()
    with qprobe.attach(model, tmp_path / "x.qprobe", ["moments"]) as session:
        model(torch.randn(2, 3, 4)).square().sum().backward()
        session.step()
    with records.open(tmp_path / "x.qprobe") as run:
        (numbers,) = run.series("rnn", "", "session", "unwatched").values
    assert numbers == 3 * 8 * (4 + 8)
    assert session.report().unwatched == ("rnn",)
    assert "Nothing watches the weights of rnn." in str(session.report())
    chosen = qprobe.attach(model, probes=["moments"], sites="head")
    chosen.close()
    assert chosen.report().unwatched == ()  # who chose sites knows


def test_what_a_loop_repeats_is_told(tmp_path):
    class Scan(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            x, state = self.layer(x), 1.0
            for at in range(40):
                state = state * x[at].tanh() + x[at]
            return state

    model, x = Scan(), torch.randn(40, 4)
    options = {"probes": ["branch_energy"], "schedule": {"branch_energy": 1}, "example": x}
    with qprobe.attach(model, tmp_path / "x.qprobe", **options) as session:
        model(x).square().sum().backward()
        session.step()
    assert session.missed == ()
    with records.open(tmp_path / "x.qprobe") as run:
        told = {r.site: r.value for r in run.records() if r.key == "repeated"}
    assert told == {
        "./mul": 22.0,
        "./add": 23.0,
    }  # the first state is no branch, nor is its product
    assert "the first turns are watched: ./add, ./mul." in str(session.report())
