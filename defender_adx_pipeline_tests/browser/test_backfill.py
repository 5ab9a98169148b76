"""Three days of two tables backfilled by clicking: one fails, is seen to have failed, and runs again alone."""

import pytest
from playwright.sync_api import Page, expect

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline_tests.browser.conftest import TABLE, Picture, days_ago
from defender_adx_pipeline_tests.browser.pages import Progress, choose_partitions, launch, progress, select_in_catalog
from defender_adx_pipeline_tests.browser.site import Site, eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

OTHER = "EmailEvents"
TABLES = (TABLE, OTHER)


def test_three_days_of_two_tables_are_backfilled_and_the_one_that_failed_alone_runs_again(
    page: Page, site: Site, picture: Picture
):
    days = [days_ago(number) for number in (12, 11, 10)]
    truth = {(table, day): site.defender_rows(table, day) for table in TABLES for day in days}
    assert all(sum(truth[table, day].total() for day in days) > 0 for table in TABLES)
    failing = f"{OTHER} | where Timestamp >= datetime({days[1]}"

    page.goto("/")
    select_in_catalog(page, " or ".join(f'key:"adx/{table}" or key:"adx/{table}Raw"' for table in TABLES), 4)
    dialog = choose_partitions(page, f"[{days[0]}...{days[-1]}]", 3)
    with site.failing("hunting", "forbidden", match=failing):
        launch(page, dialog.get_by_role("button", name="Launch backfill"))
        first = ended(page, site)
    assert first["status"] == "COMPLETED_FAILED"
    assert sorted(run["status"] for run in first["runs"]) == ["FAILURE", "SUCCESS", "SUCCESS"]
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    whole, part = Progress(3, 0, 3, 0), Progress(3, 0, 2, 1)
    assert progress(page) == {TABLE: whole, f"{TABLE}Raw": whole, OTHER: part, f"{OTHER}Raw": part}
    picture(page, "backfill")

    page.get_by_role("link", name=f"adx / {OTHER}Raw").click()
    page.get_by_role("tab", name="Partitions").click()
    for state in ("Failed (1)", "Materialized (2)"):
        expect(page.get_by_text(state)).to_be_visible()
    page.go_back()
    page.go_back()

    page.get_by_role("button").filter(has=page.get_by_role("img", name="expand_more")).first.click()
    launch(page, page.get_by_role("menuitem", name="Re-execute from failure"))
    again = ended(page, site)
    assert (again["status"], [run["status"] for run in again["runs"]]) == ("COMPLETED_SUCCESS", ["SUCCESS"])
    one = Progress(1, 0, 1, 0)
    assert progress(page) == {OTHER: one, f"{OTHER}Raw": one}

    # Names as KQL has them: with a column schema in a materialization, too, the page would show them in lower case.
    page.goto(f"/assets/adx/{OTHER}")
    for column in load_catalogue()[OTHER].columns:
        expect(page.get_by_role("cell", name=column.name, exact=True).first).to_be_attached()

    for (table, day), rows in truth.items():
        assert site.adx_rows(table, day) == rows, (table, day)


def ended(page: Page, site: Site, *, seconds: int = 400) -> dict[str, str | list[dict[str, str]]]:
    """On the page of a backfill: what Dagster says of it once it has ended; the page then shows it, too."""
    page.wait_for_url("**/runs/b/*")
    name = page.url.rsplit("/", 1)[-1]
    query = '{ partitionBackfillOrError(backfillId: "%s") { ... on PartitionBackfill { status runs { status } } } }'

    def backfill() -> dict[str, str | list[dict[str, str]]]:
        return dict(site.graphql(query % name)["partitionBackfillOrError"])

    eventually(lambda: str(backfill()["status"]).startswith("COMPLETED"), seconds, f"backfill {name} did not end")
    page.reload()
    return backfill()
