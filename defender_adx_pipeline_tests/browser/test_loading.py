"""One day of one table loaded by clicking, and all that is told of it: the run, the partition, the audit row."""

import re

import pytest
from playwright.sync_api import Page, expect

from defender_adx_pipeline_tests.browser.conftest import TABLE, Picture
from defender_adx_pipeline_tests.browser.pages import await_run, choose_partitions, launch_one, metadata, open_asset
from defender_adx_pipeline_tests.browser.site import Site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

RAW = f"{TABLE}Raw"


def test_one_day_of_one_table_is_loaded_by_clicking(page: Page, site: Site, day: str, picture: Picture):
    truth = site.defender_rows(TABLE, day)
    rows = truth.total()
    assert rows > 100
    assert site.adx_rows(TABLE, day).total() == 0
    told = len(site.log.read_text())

    open_asset(page, "adx", RAW)
    expect(page.get_by_text(f"Records of {TABLE}")).to_be_visible()
    page.get_by_role("button", name="Materialize…").click()
    dialog = choose_partitions(page, day, 1)
    picture(page, "materialize")
    launch_one(page, dialog)
    await_run(page, "Success")
    expect(page.get_by_text(f"partition: {day}")).to_be_visible()
    page.reload()  # the chart of a run that ended while one looked keeps its last frame
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible()
    picture(page, "run")

    page.locator(f"a[href*='/assets/adx/{RAW}']").first.click()
    page.get_by_role("tab", name="Partitions").click()
    page.get_by_text(day, exact=True).and_(page.locator(":visible")).first.click()
    expect(page.get_by_text("Materialized", exact=True)).to_be_visible()
    materialization = metadata(page)
    numbers = {name: materialization[name] for name in ("rows_loaded", "rows_expected", "rows_received")}
    assert numbers == dict.fromkeys(numbers, str(rows))
    assert int(materialization["rows_queryable"]) == int(materialization["dagster/partition_row_count"]) == rows
    assert materialization["window"].startswith(f"[{day}T00:00:00Z, ")
    assert int(materialization["calls"]) >= 2
    assert int(materialization["slices"]) >= 1
    assert int(materialization["bytes"]) > rows
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", materialization["watermark"])
    assert materialization["dagster/table_name"] == f"defender.{RAW}"
    picture(page, "materialization")

    page.get_by_role("tab", name="Events").click()
    page.get_by_role("img", name="observation").first.click()
    expect(page.get_by_text(f"Success: {rows} rows")).to_be_visible()
    observation = metadata(page)
    assert observation["TableName"] == TABLE
    assert observation["Status"] == "Success"
    assert observation["RecordCount"] == str(rows)
    assert "FailureReason" in observation
    assert observation["Timestamp"]
    picture(page, "observation")

    assert site.adx_rows(TABLE, day) == truth
    (audit,) = site.query(f'MigrationAuditLog | where TableName == "{TABLE}" | top 1 by Timestamp')
    assert (audit["Status"], audit["RecordCount"]) == (observation["Status"], rows)
    assert audit["FailureReason"] == observation["FailureReason"]

    page.goto("/runs")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    picture(page, "runs")
    said = site.log.read_text()[told:]
    assert not [alarm for alarm in ("ERROR", "Traceback", "Warning") if alarm in said]
