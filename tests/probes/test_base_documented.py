"""docs/concepts/probes.md: one row for each registered probe, with what it is and no other."""

import re
from pathlib import Path

import torch
from torch import nn

import qprobe
from qprobe.models import build
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.base import PROBES
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.quant import convert

PAGE = (Path(__file__).parents[2] / "docs" / "concepts" / "probes.md").read_text("utf-8")
OF_RECIPES = re.search(r"Probes \*\*of a recipe\*\* \(([^)]*)\)", PAGE)


def rows():
    """Cells of the table, by probe."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells for cells in lines}


def keys_seen():
    """The keys that each probe records of a vision transformer under a recipe."""
    torch.manual_seed(0)
    model, x = build("vit", "tiny", image=32), torch.randn(4, 3, 32, 32)
    convert(model, "nvfp4", layers="all")
    asked = {"attention_logits": AttentionLogits("nvfp4"), "softmax_levels": SoftmaxLevels("nvfp4")}
    probes = [asked.get(name, name) for name in PROBES.names()]
    schedule = dict.fromkeys(PROBES.names(), 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with qprobe.attach(model, probes=probes, example=x, schedule=schedule) as session:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            session.step()
    found: dict[str, set[str]] = {}
    for record in session.records():
        found.setdefault(record.probe, set()).add(record.key)
    return found


def test_the_table_has_every_probe_in_order():
    assert list(rows()) == PROBES.names()
    assert all(len(cells) == 6 for cells in rows().values())


def test_keys_and_intervals_are_those_of_the_probe():
    seen = keys_seen()
    for name, (_, asks, _, keys, every, _) in rows().items():
        assert asks.endswith("only when named") is not getattr(PROBES.get(name), "default", True)
        assert int(every) == max(10, getattr(PROBES.get(name), "every", 1)), name
        assert set(re.findall("`([^`]*)`", keys)) <= seen[name], name


def test_probes_that_judge_a_recipe_see_nothing_without_one():
    """And nobody misses them."""
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.randn(4, 8)
    with qprobe.attach(model, every=1) as session:
        for _ in range(4):
            model(x).sum().backward()
            session.step()
    judges = set(re.findall("`([^`]*)`", OF_RECIPES[1]))
    assert judges < set(PROBES.names())
    assert not judges & {record.probe for record in session.records()}
    assert {"four_bit", "moments", "histogram"} <= {r.probe for r in session.records()}
    assert session.missed == ()
