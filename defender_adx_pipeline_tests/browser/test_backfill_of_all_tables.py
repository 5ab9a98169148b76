"""Thirty days of all event tables, backfilled from the page of their job: `make backfill`. It takes most of an hour."""

import os

import pytest
from playwright.sync_api import Page

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline_tests.browser.conftest import days_ago
from defender_adx_pipeline_tests.browser.pages import choose_partitions, launch
from defender_adx_pipeline_tests.browser.site import Site
from defender_adx_pipeline_tests.browser.test_backfill import ended

DAYS = max(2, int(os.environ.get("DEFENDER_ADX_BACKFILL_DAYS", "30")))
"""Of one day alone the page launches a run, and no backfill."""
_SECONDS_PER_DAY = 300

pytestmark = [pytest.mark.backfill, pytest.mark.timeout(600 + 2 * DAYS * _SECONDS_PER_DAY)]


def test_every_day_of_every_event_table_is_backfilled_from_the_page_of_the_job(page: Page, site: Site):
    first, last = days_ago(DAYS - 1), days_ago(0)
    page.goto("/jobs")
    page.get_by_text("event_tables", exact=True).first.click()
    page.get_by_role("button", name="Materialize all").first.click()
    launch(page, choose_partitions(page, f"[{first}...{last}]", DAYS).get_by_role("button", name="Launch backfill"))
    backfill = ended(page, site, seconds=DAYS * _SECONDS_PER_DAY)
    assert backfill["status"] == "COMPLETED_SUCCESS"
    assert [run["status"] for run in backfill["runs"]] == ["SUCCESS"] * DAYS

    rows = 0
    for table in load_catalogue().events():
        # Today's newest rows have not settled, and are loaded by the next run.
        truth = site.defender_rows(table.name, first, days_ago(1))
        assert site.adx_rows(table.name, first, days_ago(1)) == truth, table.name
        rows += truth.total()
    assert rows > 0
