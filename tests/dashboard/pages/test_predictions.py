import json

import pytest

from qprobe.dashboard.context import Context
from qprobe.dashboard.pages import predictions
from qprobe.dashboard.query import Query


def shown(library, search):
    """The page as it is sent."""
    page = predictions.layout(Context(library=library, query=Query.parse(search)))
    return json.loads(json.dumps(page, default=lambda one: one.to_plotly_json()))


def chosen(page):
    return page["props"]["children"][1]["props"]["children"]["props"]["value"]


@pytest.mark.parametrize("run", ["vit-nvfp4-s0", "vit-nvfp4-s0/analysis"])
def test_an_analysis_shows_the_test_of_its_training(library, run):
    page = shown(library, f"?run={run}")
    assert chosen(page)[0] == "vit-nvfp4-s0"
    told = json.dumps(page)
    assert "Samples of vit-nvfp4-s0" in told
    assert "keeps no sample images" not in told


def test_a_training_is_not_compared_with_itself(library):
    page = shown(library, "?run=vit-nvfp4-s0/analysis&baseline=vit-nvfp4-s0")
    assert chosen(page).count("vit-nvfp4-s0") == 1
    assert "baseline" not in json.dumps(page["props"]["children"][-1])
    assert "baseline" in json.dumps(shown(library, "?run=vit-nvfp4-s0&baseline=vit-bf16-s0"))


def test_a_run_without_samples_says_how_to_have_them(library):
    assert "qprobe train" in json.dumps(shown(library, "?run=vit-bf16-s1"))
