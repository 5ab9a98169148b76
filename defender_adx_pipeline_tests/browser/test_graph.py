"""The graph: groups, and the way from each source over its raw table to the typed one, down to its columns."""

import re

import pytest
from playwright.sync_api import Page, expect

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline_tests.browser.conftest import GROUP, TABLE, Picture
from defender_adx_pipeline_tests.browser.pages import leftmost, node, open_asset, pull_up, zoom_out
from defender_adx_pipeline_tests.browser.site import Site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

RAW = f"{TABLE}Raw"
COUNTED = re.compile(r"^\d+ partitions$")


def test_the_graph_has_every_group_and_leads_from_each_source_to_its_raw_and_its_typed_table(
    page: Page, picture: Picture
):
    events = load_catalogue().events()
    page.goto("/")
    page.get_by_role("link", name="lineage Lineage", exact=True).click()
    zoom_out(page, 3)  # the graph draws what is in view only
    for group in {table.group for table in load_catalogue().values()}:
        expect(node(page, group)).to_have_count(1)
    expect(page.get_by_text("fetching statuses")).to_have_count(0)
    node(page, GROUP).dblclick()
    expect(page.get_by_text(COUNTED).first).to_be_visible()
    zoom_out(page, 2)  # all three columns; a little smaller it would draw names alone
    pull_up(page, GROUP)
    for table in events:
        shown = 1 if table.group == GROUP else 0
        # The typed table has the name of Defender's.
        expect(node(page, table.name)).to_have_count(2 * shown)
        expect(node(page, table.raw_table)).to_have_count(shown)
    expect(page.get_by_text(COUNTED)).to_have_count(10)
    expect(page.get_by_text("Loading")).to_have_count(0)
    picture(page, "asset-graph")


def test_a_typed_table_shows_what_its_columns_are_and_where_each_comes_from(page: Page, picture: Picture):
    page.goto(f"/assets/adx/{TABLE}")
    expect(page.get_by_text(f"{TABLE} with Defender's column names and types")).to_be_visible()
    columns = load_catalogue()[TABLE].columns
    for column in columns:
        expect(page.get_by_role("cell", name=column.name, exact=True).first).to_be_attached()
        origin = f"From Records.{column.name} of adx/{RAW}, Defender's {TABLE}.{column.name}."
        expect(page.get_by_text(origin)).to_have_count(1)
    expect(page.get_by_text("Fully qualified name of the device. Part of the key of a row. From")).to_be_visible()
    # Defender's table has the same name, and must not be taken for the same table.
    expect(page.get_by_text(f"defender.{TABLE}", exact=True).first).to_be_visible()
    expect(page.get_by_text("Linked asset")).to_have_count(0)
    picture(page, "typed-asset")
    page.get_by_role("tab", name="Checks").click()
    for check in ("same_rows_as_raw", "schema_drift"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible()
    expect(page.get_by_text("values_fit", exact=True)).to_have_count(0)


def test_one_clicks_from_a_typed_table_over_its_raw_one_to_defender(page: Page, picture: Picture):
    open_asset(page, "adx", TABLE)
    page.get_by_role("tab", name="Lineage").click()
    page.get_by_role("button", name="Upstream").click()
    page.get_by_role("button", name="All", exact=True).click()
    expect(node(page, TABLE)).to_have_count(2)
    expect(node(page, RAW)).to_have_count(1)
    expect(page.get_by_text("Microsoft", exact=True)).to_have_count(1)
    expect(page.get_by_text("kusto", exact=True)).to_have_count(2)
    picture(page, "lineage")
    node(page, RAW).dblclick()
    page.wait_for_url(f"**/assets/adx/{RAW}?*")
    expect(node(page, TABLE)).to_have_count(2)
    leftmost(node(page, TABLE)).dblclick()
    page.wait_for_url(f"**/assets/defender/{TABLE}?*")


def test_the_lineage_of_a_typed_column_is_told_to_whoever_asks_for_it(site: Site):
    """Dagster's page draws it in Dagster+ alone; what it draws comes from here."""
    query = """{ assetNodeOrError(assetKey: {path: ["adx", "%s"]}) { ... on AssetNode { metadataEntries {
        ... on TableColumnLineageMetadataEntry { lineage { columnName columnDeps { assetKey { path } columnName } } }
    } } } }"""
    entries = site.graphql(query % TABLE)["assetNodeOrError"]["metadataEntries"]
    (lineage,) = [entry["lineage"] for entry in entries if "lineage" in entry]
    found = {
        one["columnName"]: [(d["assetKey"]["path"], d["columnName"]) for d in one["columnDeps"]] for one in lineage
    }
    assert found["DeviceName"] == [(["adx", RAW], "Records"), (["defender", TABLE], "DeviceName")]
    assert set(found) >= {column.name for column in load_catalogue()[TABLE].columns}
