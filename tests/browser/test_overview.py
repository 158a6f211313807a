import re

import synthetic_runs
from playwright.sync_api import expect


def test_recipes_findings_and_runs_are_shown(page, base, visit):
    visit(f"{base}/")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator("#recipes .scatterlayer .point")).to_have_count(2)
    expect(page.locator("#recipes-table")).to_contain_text("int4-tensor")
    expect(page.locator("#overview-findings")).to_contain_text(synthetic_runs.FAILING)
    expect(page.locator("#runs .ag-center-cols-container .ag-row")).not_to_have_count(0)


def test_a_filter_is_kept_in_the_address_and_opens_the_same_view(page, base, visit, context):
    visit(f"{base}/")
    field = page.get_by_label("Runs (regex)")
    field.fill("int4.*s[01]$")
    expect(page.locator("#overview-shown")).to_have_text("2 of 10 shown")
    # The grid is as high as what is left in it.
    expect(page.locator("#runs")).to_have_css("height", "158px")
    expect(page).to_have_url(re.compile("filter=int4"))
    other = context.new_page()
    other.goto(page.url)
    expect(other.get_by_label("Runs (regex)")).to_have_value("int4.*s[01]$")
    expect(other.locator("#overview-shown")).to_have_text("2 of 10 shown")
    other.close()


def test_a_pattern_that_is_none_says_so(page, base, visit):
    visit(f"{base}/?filter=(")
    expect(page.get_by_text("no regular expression")).to_be_visible()
    expect(page.locator("#overview-shown")).to_have_text("10 of 10 shown")


def test_new_and_damaged_runs_appear_without_a_restart(hurried, served, tmp_path):
    page = hurried
    page.goto(served(tmp_path))
    expect(page.get_by_text("qprobe sweep")).to_be_visible()
    synthetic_runs.training(tmp_path / "one.qprobe", full=False)
    expect(page.locator("#overview-shown")).to_have_text("1 of 1 shown")
    synthetic_runs.training(tmp_path / "two.qprobe", seed=1, full=False)
    synthetic_runs.corrupt(tmp_path / "half.qprobe")
    page.get_by_role("button", name="update now").click()
    expect(page.locator("#overview-shown")).to_have_text("3 of 3 shown")
    expect(page.locator("#runs")).to_contain_text("unreadable")
