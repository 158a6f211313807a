"""The last line of the demo leads to the layer that breaks, and so do two clicks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

DEMO = Path(__file__).parents[2] / "docs" / "demo.py"


@pytest.mark.slow
def test_the_last_line_of_the_demo_opens_the_layer_that_breaks(page, served, tmp_path, context):
    words = [sys.executable, str(DEMO), "--out", str(tmp_path / "demo")]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    (address,) = re.findall(r"http://127\.0\.0\.1:8050(/layer\?run=demo&layer=(\S+))", told)
    assert f"qprobe dashboard {tmp_path}, then http" in told
    view, layer = address
    assert f"and {layer} alone is" in told.replace("\n", " ")
    base = served(tmp_path)
    page.goto(base)
    page.locator("#navigation a[href*='/layers']").click()
    page.locator("#worst a").first.click()
    expect(page).to_have_url(re.compile(rf"layer={re.escape(layer)}(&|$)"))
    expect(page.locator("#layer-operands .barlayer path").first).to_be_attached()
    shown = page.locator("#page .page-title").inner_text()
    for link in (page.url, base + view):
        other = context.new_page()
        other.goto(link)
        expect(other.locator("#page .page-title")).to_have_text(shown, use_inner_text=True)
        other.close()
