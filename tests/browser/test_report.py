from playwright.sync_api import expect

from qprobe.dashboard.library import Library
from qprobe.dashboard.report import write
from qprobe.dashboard.theme import ink


def rgb(colour):
    """As a browser says it: #0a0b0c is rgb(10, 11, 12)."""
    return f"rgb({', '.join(str(part) for part in bytes.fromhex(colour[1:]))})"


def test_a_report_opens_from_the_disk_without_a_request(context, sweep, tmp_path):
    path = write(Library([sweep]), tmp_path / "report.html")
    tab, asked, wrong = context.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(path.as_uri())
    expect(tab.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(tab.locator(".heatmaplayer image").first).to_be_attached()
    for look, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(36, 36, 36)")):
        tab.emulate_media(color_scheme=look)
        expect(tab.locator("body")).to_have_css("background-color", paper)
        # Words of charts are as bright as those beside them.
        expect(tab.locator(".xtitle").first).to_have_css("fill", rgb(ink(look == "dark")))
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_function("() => document.documentElement.scrollWidth <= 390")
    tab.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert wrong == []
