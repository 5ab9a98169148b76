"""What a person sees and does in Dagster's web page: the graph, and one day of one table loaded by clicking.

The page's words are Dagster's, so a new version of Dagster may need another label here. What is asserted is the
project's: names, groups, numbers, and that the numbers are true.
"""

import re

import orjson
import pytest
import requests
from playwright.sync_api import Locator, Page, expect

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline_tests.browser.conftest import GROUP, TABLE, Picture
from defender_adx_pipeline_tests.browser.site import Site

pytestmark = pytest.mark.browser

RAW = f"{TABLE}Raw"

expect.set_options(timeout=20_000)


def test_the_graph_has_every_group_and_leads_from_each_source_to_its_raw_and_its_typed_table(
    page: Page, picture: Picture
):
    events = load_catalogue().events()
    page.goto("/")
    page.get_by_role("link", name="lineage Lineage", exact=True).click()
    zoom_out = page.get_by_role("button").filter(has=page.get_by_role("img", name="zoom_out"))
    for _ in range(3):  # the graph draws what is in view only
        zoom_out.click()
    for group in {table.group for table in load_catalogue().values()}:
        expect(node(page, group)).to_have_count(1)
    expect(page.get_by_text("fetching statuses")).to_have_count(0)
    node(page, GROUP).dblclick()
    expect(page.get_by_text(re.compile(r"^\d+ partitions$")).first).to_be_visible()
    for _ in range(2):  # all three columns; a little smaller it would draw names alone
        zoom_out.click()
    pull_up(page, GROUP)
    for table in events:
        shown = 1 if table.group == GROUP else 0
        # The typed table has the name of Defender's.
        expect(node(page, table.name)).to_have_count(2 * shown)
        expect(node(page, table.raw_table)).to_have_count(shown)
    expect(page.get_by_text(re.compile(r"^\d+ partitions$"))).to_have_count(10)
    expect(page.get_by_text("Loading")).to_have_count(0)
    picture(page, "asset-graph")


def test_one_day_of_one_table_is_loaded_by_clicking(page: Page, site: Site, day: str, picture: Picture):
    truth = source_rows(site, day)
    assert truth > 100
    assert rows_in_adx(site, day) == 0

    page.goto("/")
    page.get_by_role("button", name="Search").first.click()
    page.keyboard.type(RAW)
    page.get_by_role("link", name=f"adx / {RAW}").click()
    expect(page.get_by_text(f"Records of {TABLE}")).to_be_visible()
    page.get_by_role("button", name="Materialize…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").first.fill(day)
    dialog.get_by_role("textbox").first.press("Enter")
    expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()
    picture(page, "materialize")
    dialog.get_by_role("button", name="Launch 1 run").click()
    page.get_by_role("link", name="View", exact=True).click()
    # The state of the run is a `div` at the top; the observation in the log below has the word in a cell.
    expect(page.locator("div").get_by_text("Success", exact=True).and_(page.locator("div"))).to_be_visible(
        timeout=90_000
    )
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
    assert numbers == dict.fromkeys(numbers, str(truth))
    assert int(materialization["rows_queryable"]) == int(materialization["dagster/partition_row_count"]) == truth
    assert materialization["window"].startswith(f"[{day}T00:00:00Z, ")
    assert int(materialization["calls"]) >= 2
    assert int(materialization["slices"]) >= 1
    assert int(materialization["bytes"]) > truth
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", materialization["watermark"])
    assert materialization["dagster/table_name"] == f"defender.{RAW}"
    picture(page, "materialization")

    page.get_by_role("tab", name="Events").click()
    page.get_by_role("img", name="observation").first.click()
    expect(page.get_by_text(f"Success: {truth} rows")).to_be_visible()
    observation = metadata(page)
    assert observation["TableName"] == TABLE
    assert observation["Status"] == "Success"
    assert observation["RecordCount"] == str(truth)
    assert "FailureReason" in observation
    assert observation["Timestamp"]
    picture(page, "observation")

    assert rows_in_adx(site, day) == truth
    audits = site.command("query", "--json", f'MigrationAuditLog | where TableName == "{TABLE}" | top 1 by Timestamp')
    audit = orjson.loads(audits)
    assert (audit["Status"], audit["RecordCount"]) == (observation["Status"], truth)
    assert audit["FailureReason"] == observation["FailureReason"]


def test_a_typed_table_shows_what_its_columns_are_and_comes_over_its_raw_table_from_defender(
    page: Page, picture: Picture
):
    page.goto(f"/assets/adx/{TABLE}")
    expect(page.get_by_text(f"{TABLE} with Defender's column names and types")).to_be_visible()
    for column in load_catalogue()[TABLE].columns[:5]:
        expect(page.get_by_role("cell", name=column.name, exact=True).first).to_be_visible()
    expect(page.get_by_text("Fully qualified name of the device. Part of the key of a row.")).to_be_visible()
    # Defender's table has the same name, and must not be taken for the same table.
    expect(page.get_by_text(f"defender.{TABLE}", exact=True).first).to_be_visible()
    expect(page.get_by_text("Linked asset")).to_have_count(0)
    picture(page, "typed-asset")
    page.get_by_role("tab", name="Checks").click()
    for check in ("same_rows_as_raw", "schema_drift"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible()
    expect(page.get_by_text("values_fit", exact=True)).to_have_count(0)
    page.goto(f"/assets/adx/{TABLE}?view=lineage&lineageScope=upstream&lineageDepth=2")
    expect(node(page, TABLE)).to_have_count(2)
    expect(node(page, RAW)).to_have_count(1)
    expect(page.get_by_text("Microsoft", exact=True)).to_have_count(1)
    expect(page.get_by_text("kusto", exact=True)).to_have_count(2)
    picture(page, "lineage")


def test_the_lineage_of_a_typed_column_is_told_to_whoever_asks_for_it(site: Site):
    """Dagster's page draws it in Dagster+ alone; what it draws comes from here."""
    query = """{ assetNodeOrError(assetKey: {path: ["adx", "%s"]}) { ... on AssetNode { metadataEntries {
        ... on TableColumnLineageMetadataEntry { lineage { columnName columnDeps { assetKey { path } columnName } } }
    } } } }"""
    answer = requests.post(f"{site.url}/graphql", json={"query": query % TABLE}, timeout=60).json()
    entries = answer["data"]["assetNodeOrError"]["metadataEntries"]
    (lineage,) = [entry["lineage"] for entry in entries if "lineage" in entry]
    found = {
        one["columnName"]: [(d["assetKey"]["path"], d["columnName"]) for d in one["columnDeps"]] for one in lineage
    }
    assert found["DeviceName"] == [(["adx", RAW], "Records"), (["defender", TABLE], "DeviceName")]
    assert set(found) >= {column.name for column in load_catalogue()[TABLE].columns}


def test_the_runs_and_the_automation_are_listed(page: Page, picture: Picture):
    page.goto("/runs")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    picture(page, "runs")
    page.get_by_role("link", name="Automation").click()
    expect(page.get_by_text("event_tables_tick", exact=True)).to_be_visible()
    expect(page.get_by_text("table_activated", exact=True)).to_be_visible()


def node(page: Page, name: str) -> Locator:
    """The box of an asset or a group in the graph."""
    return page.locator("svg").get_by_text(name, exact=True).and_(page.locator("[data-tooltip]"))


def pull_up(page: Page, group: str) -> None:
    """Move the graph until an open group begins at the top of the window; which groups lie around it differs."""
    header = page.locator("svg").get_by_text(group, exact=True).last.bounding_box()
    assert header is not None
    page.mouse.move(620, 700)
    page.mouse.down()
    page.mouse.move(620, 700 + 150 - header["y"], steps=5)
    page.mouse.up()


def metadata(page: Page) -> dict[str, str]:
    """The table of metadata in view, as text."""
    expect(page.get_by_role("cell", name="rows_loaded", exact=True)).to_be_visible()
    cells = [row.get_by_role("cell").all_inner_texts() for row in page.get_by_role("row").all()]
    return {row[0].strip(): row[1].strip() for row in cells if len(row) >= 2}


def source_rows(site: Site, day: str) -> int:
    """How many rows Defender has of a day: asked of the tenant's own store, past its hunting API."""
    bounds = {"table": TABLE, "start": f"{day}T00:00:00+00:00", "end": f"{day}T23:59:59.999999+00:00"}
    address = f"{site.environment()['LOCAL_TENANT_ADMIN_URL']}/source/rows"
    return len(requests.get(address, params=bounds, timeout=60).text.splitlines())


def rows_in_adx(site: Site, day: str) -> int:
    field = 'todatetime(Records["Timestamp"])'
    query = f"{RAW} | where {field} >= datetime({day}) and {field} < datetime({day}) + 1d | count"
    return int(orjson.loads(site.command("query", "--json", query))["Count"])
