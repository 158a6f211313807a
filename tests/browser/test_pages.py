import re

import pytest
import synthetic_runs
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from qprobe.records import Batch, Column, Metric, RunInfo, create

PAIR = "?run=vit-nvfp4-s0&baseline=vit-bf16-s0"
#: Something of each page that is there only when its callbacks have answered.
PAGES = {
    "": "#recipes .scatterlayer .point",
    "layers": "#fingerprint .heatmaplayer image",
    "layer": "#layer-histogram .barlayer path",
    "attention": "#heads .heatmaplayer image",
    "branches": "#branch-lines .scatterlayer path",
    "recovery": "#recovery .barlayer path",
    "curvature": "#curvature .barlayer path",
    "predictions": "#curves .scatterlayer path",
    "compare": "#difference .heatmaplayer image",
    "live": "#live-series .scatterlayer path",
}
#: Nothing but violations is reported, and no rule that needs the style sheets again is asked.
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21aa"],
    "resultTypes": ["violations"],
    "preload": False,
}


def shown(page, name):
    expect(page.locator(PAGES[name]).first).to_be_attached()
    # A table draws its rows before the cells in them.
    expect(page.locator(".ag-header-row:not(:has([role=columnheader]))")).to_have_count(0)


@pytest.fixture
def opened(page, base, visit):
    """Opens a page by its name, and waits until its charts are there."""

    def go(name, search=PAIR):
        visit(f"{base}/{name}{search}")
        shown(page, name)

    return go


#: A table that is built later is in view with its cells: it hides them until somebody sees it.
SETTLED = """() => {
  const slots = [...document.querySelectorAll('#layer-table, #layers-table')];
  slots.forEach((slot) => slot.scrollIntoView());
  return slots.every((slot) => slot.querySelector('.ag-cell')) && !document.querySelector(
    '.ag-header-row:not(:has([role=columnheader])), #layer-table .ag-delay-render, ' +
    '#layers-table .ag-delay-render');
}"""


#: Texts of charts that begin or end outside of their chart.
CUT = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap((chart) => {
  const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('.xtitle, .ytitle, .xtick text, .ytick text, .legendtext')]
    .filter((text) => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 ||
        box.bottom > frame.bottom + 1 || box.top < frame.top - 1;
    }).map((text) => chart.parentElement.id + ': ' + text.textContent);
})"""


def violations(page):
    page.wait_for_function(SETTLED)
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate("options => axe.run(document, options)", RULES)["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found]


def test_every_page_shows_its_charts_to_everybody(page, opened):
    """One tab through the navigation: a page is built in place, which a reload would hide."""
    opened("")
    found = {"": violations(page)}
    for name in filter(None, PAGES):
        page.locator(f"#navigation a[href*='/{name}?']").click()
        expect(page.locator(PAGES[name]).first).to_be_attached()
        found[name] = violations(page)
    assert found == {name: [] for name in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_its_charts_in_the_dark(chromium, base, name):
    context = chromium.new_context(color_scheme="dark", reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(f"{base}/{name}{PAIR}")
    shown(tab, name)
    expect(tab.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    assert violations(tab) == []
    context.close()


def test_two_clicks_lead_to_the_failing_layer_and_the_link_opens_it_again(
    page, base, visit, context
):
    visit(f"{base}/")
    page.locator("#overview-findings a", has_text=synthetic_runs.FAILING).first.click()
    expect(page.get_by_role("heading", name="Layer", exact=True)).to_be_visible()
    expect(page.locator("#page")).to_contain_text("give every channel its own scale")
    other = context.new_page()
    other.goto(page.url)
    expect(other.locator("#page")).to_contain_text(synthetic_runs.FAILING)
    other.close()
    # Without a finding it is as near: the page of layers has it first.
    page.locator("#navigation a", has_text="Overview").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.locator("#navigation a[href*='/layers']").click()
    page.locator("#worst a").first.click()
    expect(page).to_have_url(re.compile(re.escape(f"layer={synthetic_runs.FAILING}")))


def test_a_page_begins_at_its_top_and_names_its_tab(page, opened):
    opened("layers")
    expect(page).to_have_title("Layers · vit-nvfp4-s0 · qprobe")
    page.wait_for_function(SETTLED)
    link = page.locator("#layers a", has_text=synthetic_runs.FAILING)
    link.scroll_into_view_if_needed()
    assert page.evaluate("() => window.scrollY") > 200
    link.click()
    expect(page).to_have_title(f"{synthetic_runs.FAILING} · vit-nvfp4-s0 · qprobe")
    expect(page.locator("#page")).to_be_focused()
    assert page.evaluate("() => window.scrollY") == 0
    # The next layer is looked at where this one was.
    page.evaluate("() => window.scrollTo(0, 300)")
    page.keyboard.press("j")
    expect(page).not_to_have_title(re.compile(re.escape(synthetic_runs.FAILING)))
    assert page.evaluate("() => window.scrollY") == 300
    page.go_back()
    expect(page).to_have_title(re.compile(re.escape(synthetic_runs.FAILING)))


def test_a_map_of_attention_is_shown_before_and_under_the_recipe(page, base, visit, opened):
    opened("attention")
    expect(page.locator("#head-map .heatmaplayer image")).to_have_count(3)
    expect(page.locator("#map-caption")).to_contain_text("logits of head 2 of one sample, step 100")
    page.get_by_role("textbox", name="Sampled map").click()
    page.get_by_role("option", name="blocks.0.attn.product, probabilities").click()
    expect(page.locator("#map-caption")).to_contain_text("probabilities of head 2")
    expect(page).to_have_url(re.compile("map=.*probabilities"))
    visit(f"{base}/layer{PAIR}&layer=blocks.0.attn.product")
    for word in ("logits", "probabilities"):
        expect(page.locator(f"#layer-{word} .heatmaplayer image")).to_have_count(3)


def test_the_three_forms_of_layers_follow_the_filter(page, opened):
    opened("layers")
    page.get_by_label("Layers (regex)").fill(r"blocks\.[02]\.attn")
    expect(page.locator("#layers-shown")).to_contain_text("4 of 24 layers")
    expect(page.locator("#layers .ag-center-cols-container .ag-row")).to_have_count(4)
    page.get_by_label("Layers (regex)").fill("(")
    expect(page.get_by_text("no regular expression")).to_be_visible()


def test_a_click_on_a_cell_opens_its_layer(page, opened):
    opened("layers")
    box = page.locator("#matrix .nsewdrag").bounding_box()
    x, y = box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 2.5 / 6
    page.mouse.move(x, y)
    expect(page.locator("#matrix .hoverlayer .hovertext")).to_be_visible()
    page.mouse.click(x, y)
    expect(page).to_have_url(re.compile(r"/layer\?.*layer=blocks\.2\.attn\.qkv"))
    expect(page.locator("#layer-histogram .barlayer path").first).to_be_attached()


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("png", "svg")), "csv"]
)
def test_a_chart_can_be_saved(page, opened, kind):
    opened("recovery")
    with page.expect_download() as saved:
        page.get_by_label(f"Save recovery of every layer as {kind}").click()
    assert saved.value.suggested_filename == f"recovery.{kind}"
    data = saved.value.path().read_bytes()
    if kind == "csv":
        lines = data.decode().splitlines()
        assert lines[0] == "series,x,y,z"
        assert len(lines) == 1 + len(synthetic_runs.layers())
        assert synthetic_runs.FAILING in lines[1]
    else:
        assert data.startswith(b"\x89PNG" if kind == "png" else b"<svg")


@pytest.mark.slow
def test_a_grid_and_a_plan_can_be_saved(page, opened):
    opened("layers")
    with page.expect_download() as saved:
        page.get_by_label("Save layers as csv").click()
    assert synthetic_runs.FAILING in saved.value.path().read_text()
    opened("recovery")
    expect(page.locator("#plan-text")).to_contain_text("bf16")
    with page.expect_download() as saved:
        page.get_by_role("button", name="save plan.toml").click()
    assert saved.value.path().read_text() == f'"{synthetic_runs.FAILING}" = "bf16"\n'


def test_a_phone_has_room_for_every_page(page, base, visit, opened):
    page.set_viewport_size({"width": 390, "height": 844})
    opened("")
    for name in PAGES:
        # In place, as the links of the folded navigation do it.
        visit(f"{base}/{name}{PAIR}")
        expect(page.locator(PAGES[name]).first).to_be_attached()
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 390, f"{name} is {wide} wide"
        assert page.locator(".modebar-container:visible").count() == 0
        assert page.evaluate(CUT) == [], f"{name} has words that are cut"
        if name == "layers":
            page.wait_for_function(SETTLED)
            stays = page.locator("#layers .ag-pinned-left-header").bounding_box()
            assert stays["width"] < 0.6 * page.locator("#layers").bounding_box()["width"]
    header = page.locator("header").bounding_box()
    for one in ("#choose-run", "#choose-baseline", "#refresh", "#pause", "#keys", "#scheme"):
        box = page.locator(one).bounding_box()
        assert box["x"] >= 0, f"{one}: {box}"
        assert box["x"] + box["width"] <= 390, f"{one}: {box}"
        assert box["y"] >= 0, f"{one}: {box}"
        assert box["y"] + box["height"] <= header["height"], f"{one} is below the header"


#: Says every 50 ms what another tab of this dashboard was told.
OTHER = """(told) => {
  const tab = new BroadcastChannel("qprobe-answers/");
  return setInterval(() => tab.postMessage(told), 50);
}"""


def test_what_did_not_change_costs_a_question_and_a_hidden_tab_asks_nothing(hurried, base):
    page, asked = hurried, []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(f"{base}/live{PAIR}")
    shown(page, "live")
    expect(page.locator("#freshness")).to_contain_text(re.compile("ago|just now"))
    for _ in range(20):  # until what it is built of is there
        asked.clear()
        with page.expect_response("**/beat") as told:
            pass
        kinds = {url.rpartition("/")[2] for url in asked}
        if kinds == {"beat"}:
            break
    assert kinds == {"beat"}
    # Another tab asks: what it is told this one need not ask.
    other = page.evaluate_handle(OTHER, told.value.json())
    page.wait_for_timeout(300)  # for an answer that is under way
    asked.clear()
    page.wait_for_timeout(700)
    assert asked == []
    with page.expect_response("**/beat"):
        other.evaluate("clearInterval")
    hide = "hidden => Object.defineProperty(document, 'hidden', { value: hidden, writable: true })"
    page.evaluate(hide, True)
    page.wait_for_timeout(300)  # for an answer that is under way
    asked.clear()
    page.wait_for_timeout(700)  # it would have asked three times, or once after a quiet minute
    assert asked == []
    with page.expect_response("**/beat"):
        page.evaluate("() => { document.hidden = false; }")
        page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def test_a_baseline_is_pinned_by_the_keyboard_and_the_focus_stays(page, base, visit, opened):
    opened("layers", "")
    # The run that is shown without being asked for is no part of the link.
    expect(page).to_have_url(f"{base}/layers")
    visit(f"{base}/layers?run=vit-nvfp4-s0")
    # Both choices are filled together, and what is typed before that finds nothing.
    expect(page.get_by_role("textbox", name="run", exact=True)).to_have_value("vit-nvfp4-s0")
    field = page.get_by_role("textbox", name="baseline run")
    field.focus()
    page.keyboard.type("bf16-s0")
    expect(page.get_by_role("option", name="vit-bf16-s0")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("run=vit-nvfp4-s0.*baseline=vit-bf16-s0"))
    expect(field).to_have_value("vit-bf16-s0")
    expect(field).to_be_focused()
    expect(page.get_by_role("textbox", name="run", exact=True)).to_have_value("vit-nvfp4-s0")


def test_keys(page, opened):
    opened("layers")
    page.keyboard.press("/")
    expect(page.get_by_label("Layers (regex)")).to_be_focused()
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("d")
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    page.keyboard.press("d")
    page.keyboard.press("?")
    expect(page.get_by_text("next and previous failing layer")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_label("Layers (regex)").fill("attn")
    expect(page).to_have_url(re.compile("filter=attn"))
    page.locator("h1").click()
    page.keyboard.press("]")
    # What was chosen in this view is chosen in that of the next run.
    expect(page).to_have_url(re.compile("filter=attn.*run=vit-bf16-s2"))


QUIET_DARK = "rgb(166, 167, 171)"


def test_charts_change_with_the_theme(page, opened):
    opened("live")
    label = page.locator("#live-series .xtitle")
    light = label.evaluate("node => getComputedStyle(node).fill")
    page.keyboard.press("d")
    expect(label).not_to_have_css("fill", light)
    hint = page.get_by_role("textbox", name="baseline run")
    # As bright as other quiet words: Mantine's own hints have a contrast of 2.5.
    assert hint.evaluate("node => getComputedStyle(node, '::placeholder').color") == QUIET_DARK
    page.keyboard.press("d")
    expect(label).to_have_css("fill", light)


def test_names_that_are_markup_are_harmless(page, visit, served, tmp_path):
    synthetic_runs.hostile(tmp_path / "<i>run<.qprobe")
    base = served(tmp_path)
    dialogs = []

    def opens(dialog):
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", opens)
    page.goto(base)
    expect(page.locator("#overview-findings")).to_contain_text("<img src=x")
    for name in ("", "layers", "layer", "live"):
        slots = {"layer": "#layer-time .scatterlayer path", "": "#runs .ag-row"}
        opened_at = slots.get(name, PAGES[name])
        visit(f"{base}/{name}")
        expect(page.locator(opened_at).first).to_be_attached()
        wide = "() => document.documentElement.scrollWidth - window.innerWidth"
        assert page.evaluate(wide) <= 0, f"{name} is wider than the window"
    assert page.locator("img[src=x], #page b > b").count() == 0
    page.remove_listener("dialog", opens)
    assert dialogs == []


def test_a_folder_without_runs_says_how_to_make_one(page, visit, served, tmp_path):
    base = served(tmp_path)
    page.goto(f"{base}/layers?run=gone")
    expect(page.get_by_text("There is no run 'gone' here.")).to_be_visible()
    visit(f"{base}/nowhere")
    expect(page.get_by_text("There is no page /nowhere.")).to_be_visible()


@pytest.mark.slow
def test_runs_without_measurements_name_the_command(page, base):
    for name in ("layers", "attention", "branches", "recovery", "curvature"):
        page.goto(f"{base}/{name}?run=vit-bf16-s1")
        expect(page.locator(".empty")).to_contain_text("qprobe analyze")


@pytest.fixture
def written(tmp_path):
    """A training under way, and what writes a step of it."""
    info = RunInfo(config=synthetic_runs.config("nvfp4", 0), environment={}, recipe="nvfp4")
    with create(tmp_path / "run.qprobe", info) as writer:
        layout = writer.layout([Column("", "", "training", "loss")])

        def step(number, *scores):
            writer.records(number, Batch(layout=layout, values=synthetic_runs.np.array([1.0])))
            writer.metrics([Metric(step=number, split="validation", name="auprc", value=score)
                            for score in scores])  # fmt: skip
            writer.flush()

        yield step


def test_a_run_that_is_written_moves_on_and_can_be_paused(hurried, served, tmp_path, written):
    page = hurried
    page.goto(f"{served(tmp_path)}/live")
    expect(page.get_by_text("This run is no training.")).to_be_visible()
    written(1)
    facts = page.locator("#live-facts")
    expect(facts).to_contain_text("1 of 100")
    expect(facts).to_contain_text("running")
    score = page.get_by_role("textbox", name="Validation score")
    expect(score).to_have_value("")
    page.get_by_role("button", name="pause").click()
    expect(page.get_by_role("button", name="go on")).to_be_visible()
    asked = []
    page.on("request", lambda one: asked.append(one.url))
    written(42, 0.5)
    page.wait_for_timeout(700)
    assert asked == []
    page.get_by_role("button", name="update now").click()  # also while it is paused
    expect(facts).to_contain_text("42 of 100")
    # A page that is older than the first validation shows it all the same.
    expect(score).to_have_value("auprc")
    expect(page.locator("#live-scores .scatterlayer path").first).to_be_attached()
    written(43)
    page.get_by_role("button", name="go on").click()
    expect(facts).to_contain_text("43 of 100")


#: Every drawing of a chart takes this page half a second.
SLOW = """() => {
  const react = Plotly.react;
  Plotly.react = function () {
    const end = performance.now() + 500;
    while (performance.now() < end);
    return react.apply(this, arguments);
  };
}"""


def test_a_page_that_draws_slowly_follows_slowly_and_says_so(hurried, served, tmp_path, written):
    page = hurried
    written(1)
    page.goto(f"{served(tmp_path)}/live")
    expect(page.locator("#live-series .scatterlayer path").first).to_be_attached()
    page.evaluate(SLOW)
    facts = page.locator("#live-facts")
    with page.expect_response("**/beat"):  # from here on a change is seen
        pass
    written(2)
    expect(facts).to_contain_text("2 of 100")
    expect(page.locator("#freshness")).to_have_text("updated just now, every 30 s")
    asked = []
    page.on("request", lambda one: asked.append(one.url))
    written(3)
    page.wait_for_timeout(700)
    assert asked == []
    page.keyboard.press("r")
    expect(facts).to_contain_text("3 of 100")
