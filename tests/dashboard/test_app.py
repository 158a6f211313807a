"""Contracts of every page: what its layout promises, whatever is in the run."""

import shutil

import pytest
import synthetic_runs
from dash import dcc
from dash.development.base_component import Component

from qprobe import records
from qprobe.dashboard import create_app
from qprobe.dashboard.context import Context
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages import PAGES, live, overview
from qprobe.dashboard.query import Query
from qprobe.dashboard.theme import GRAPH_CONFIG
from qprobe.errors import InputError

SEARCHES = [
    "",
    "?run=vit-nvfp4-s0&baseline=vit-bf16-s0",
    "?run=vit-bf16-s1",
    "?run=vit-nvfp4-s0/analysis",
    "?run=gone",
    "?run=vit-nvfp4-s0&layer=%3Cscript%3E&step=-1&measure=x&filter=(&split=%00",
]


def walk(component):
    yield component
    if isinstance(component, Component):
        children = getattr(component, "children", None)
        for child in children if isinstance(children, list | tuple) else [children]:
            if child is not None:
                yield from walk(child)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.title)
def test_every_graph_has_a_height_and_sends_nothing_away(page, search, library):
    context = Context(library=library, query=Query.parse(search))
    for one in walk(page.layout(context)):
        if isinstance(one, dcc.Graph):
            assert one.config is GRAPH_CONFIG
            assert one.style["height"] > 100


@pytest.mark.parametrize(
    ("search", "shown"),
    [
        ("?run=vit-nvfp4-s0/analysis", "Where vit-nvfp4-s0 stands."),  # what it analyzes
        ("?run=vit-bf16-s1", "Where vit-bf16-s1 stands."),
        ("", "Where vit-int4-tensor-s2 stands."),  # nothing was named: the one under way
    ],
)
def test_live_follows_a_training_also_from_its_analysis(search, shown, sweep, tmp_path):
    path = tmp_path / "runs"
    shutil.copytree(sweep, path)
    with records.resume(path / "vit-int4-tensor-s2" / "run.qprobe"):
        library = Library([path])
        assert shown in str(live.layout(Context(library=library, query=Query.parse(search))))


def test_plotly_hands_nothing_to_its_makers():
    assert GRAPH_CONFIG["showSendToCloud"] is False
    assert GRAPH_CONFIG["plotlyServerURL"] == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.title)
def test_hostile_names_and_an_empty_folder_are_laid_out(page, tmp_path):
    library = Library([tmp_path])
    for count in range(2):
        context = Context(library=library, query=Query.parse(""))
        assert page.layout(context) is not None
        if not count:
            synthetic_runs.hostile(tmp_path / "<b>.qprobe")
            library.runs(now=True)


def test_a_folder_of_other_results_is_told_by_its_own_page(tmp_path):
    context = Context(library=Library([tmp_path]), query=Query.parse(""))
    assert "told in" not in str(overview.layout(context))
    (tmp_path / "README.md").write_text("what we measured")
    assert f"told in {tmp_path / 'README.md'}." in str(overview.layout(context))


def test_two_apps_do_not_share_pages(sweep, tmp_path):
    first, second = create_app(sweep), create_app(tmp_path, base_path="/q/")
    assert len(first.callback_map) == len(second.callback_map)
    answer = second.server.test_client().get("/q/", headers={"Host": "localhost"})
    assert answer.status_code == 200


def test_a_base_path_has_slashes(sweep):
    with pytest.raises(InputError, match="base path"):
        create_app(sweep, base_path="q")
