"""A load that fails: the asset is marked, its check says why in numbers and in a report, and the next run mends it."""

import pytest
from playwright.sync_api import Page, expect

from defender_adx_pipeline_tests.browser.conftest import TABLE, Picture, days_ago
from defender_adx_pipeline_tests.browser.pages import await_run, materialize, metadata, node, open_asset
from defender_adx_pipeline_tests.browser.site import Site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

RAW = f"{TABLE}Raw"


def test_a_check_that_failed_has_numbers_and_a_report_and_passes_after_the_next_run(
    page: Page, site: Site, picture: Picture
):
    day = days_ago(6)
    truth = site.defender_rows(TABLE, day)
    open_asset(page, "adx", RAW)
    with site.failing("worker", "refused", match=RAW):
        materialize(page, day)
        await_run(page, "Failure")
    said = f"{TABLE} [{day}T00:00:00Z, "
    expect(page.get_by_text(f"Failure: {said}").first).to_be_visible()
    picture(page, "failed-run")

    page.locator(f"a[href*='/assets/adx/{RAW}']").first.click()
    page.get_by_role("tab", name="Checks").click()
    page.get_by_text("completeness", exact=True).first.click()
    expect(page.get_by_text("This is a blocking asset check.")).to_be_visible()
    expect(page.get_by_text(said).first).to_be_visible()
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    numbers = metadata(page, "rows_expected")
    assert (numbers["rows_expected"], numbers["rows_received"]) == (str(truth.total()),) * 2
    assert numbers["rows_queryable"] == "0"
    assert numbers["window"].startswith(f"[{day}T00:00:00Z, ")
    picture(page, "failed-check")
    page.get_by_text("[Show Markdown]").click()
    report = page.get_by_role("dialog")
    expect(report.get_by_role("heading", name=f"The load of {TABLE} failed")).to_be_visible()
    for part in ("NotConfirmedError", "Kept.", "Not there.", "Open in the ledger.", "What to do", "Queued"):
        expect(report.get_by_text(part).first).to_be_visible()
    expect(report.get_by_text(f"defender-adx sync {TABLE} --from {day}")).to_be_visible()
    picture(page, "failure-report")
    report.get_by_role("button", name="Close").click()

    page.get_by_role("tab", name="Lineage").click()
    expect(node(page, RAW).first).to_be_visible()
    expect(page.get_by_text("(1 failed)")).to_be_visible()
    checks = page.get_by_role("link").filter(has_text=" Passed").filter(has=page.get_by_role("img", name="close"))
    expect(checks).to_have_count(1)
    picture(page, "failed-asset")

    materialize(page, day)
    await_run(page, "Success")
    page.goto(f"/assets/adx/{RAW}?view=checks&checkDetail=completeness")
    expect(page.get_by_text(f"Defender has {truth.total()} rows and {RAW} has {truth.total()}")).to_be_visible()
    assert site.adx_rows(TABLE, day) == truth
