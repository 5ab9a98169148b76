"""The automation page: a tick previewed, the schedule and a sensor switched on, and what their ticks did and said."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from defender_adx_pipeline_tests.browser import TICK
from defender_adx_pipeline_tests.browser.conftest import Picture, days_ago
from defender_adx_pipeline_tests.browser.pages import open_automation, switch
from defender_adx_pipeline_tests.browser.site import LOCATION, Site, eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TABLE = "AlertInfo"
"""Whose rows no other test loads."""


@pytest.fixture
def one_table(site: Site) -> Iterator[str]:
    """The only active table, so that a tick asks for one small run."""
    others = f'SourceTable != "{TABLE}" and IsActive'
    switched = [row["SourceTable"] for row in site.query(f"VwLatestMigrationConfiguration | where {others}")]
    site.configure(others, is_active=False)
    yield TABLE
    names = ", ".join(f'"{name}"' for name in switched)
    site.configure(f"SourceTable in ({names})", is_active=True)


def test_schedule_and_sensor_are_switched_on_and_their_ticks_and_runs_are_seen(
    page: Page, site: Site, one_table: str, picture: Picture
):
    open_automation(page, TICK)
    page.get_by_role("button", name="Preview tick result").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text("1 run requests")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    assert ticks(site) == []

    with switch(page):
        eventually(lambda: "SUCCESS" in ticks(site), 300, "no tick came within five minutes")
        eventually(lambda: run_states(site) == ["SUCCESS"], 300, f"the run of the tick: {run_states(site)}")
        # Meanwhile the next minute comes.
        a_sensor_says_what_it_found(page)
        eventually(lambda: "SKIPPED" in ticks(site), 300, "no tick came after the run had ended")
        page.get_by_role("link", name="Automation").first.click()
        expect(page.get_by_text(TICK, exact=True)).to_be_visible()
        listed = page.locator("a[href*='/schedules/'], a[href*='/sensors/']").count()
        expect(page.get_by_role("checkbox")).to_have_count(2 * listed + 1)
        picture(page, "automation")
        open_automation(page, TICK)
        expect(page.get_by_text("1 run requested").first).to_be_visible()
        picture(page, "tick")
        told(page, "none of 1 tables has anything new")
    weeks = days_ago(28), days_ago(1)
    truth = site.defender_rows(TABLE, *weeks)
    assert truth.total() > 0
    assert site.adx_rows(TABLE, *weeks) == truth


def a_sensor_says_what_it_found(page: Page) -> None:
    open_automation(page, "runs_without_a_word")
    with switch(page):
        told(page, "every run that has ended has told so in MigrationAuditLog")


def told(page: Page, why: str) -> None:
    """On the page of a schedule or a sensor: the newest tick asks for no run, and its dialog says why."""
    newest = page.get_by_role("row").filter(has_text="View logs").first
    result = newest.get_by_text("0 runs requested").last
    expect(result).to_be_visible(timeout=180_000)
    result.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text(why)).to_be_visible()
    dialog.get_by_role("button", name="Close").click()


def ticks(site: Site) -> list[str]:
    """How each tick of the schedule ended so far, the newest first."""
    selector = f'{{repositoryLocationName: "{LOCATION}", repositoryName: "__repository__", scheduleName: "{TICK}"}}'
    query = "scheduleOrError(scheduleSelector: %s) { ... on Schedule { scheduleState { ticks { status } } } }"
    answer = site.graphql(f"{{ {query % selector} }}")
    return [tick["status"] for tick in answer["scheduleOrError"]["scheduleState"]["ticks"]]


def run_states(site: Site) -> list[str]:
    """The states of the runs that ticks asked for."""
    tag = f'{{key: "dagster/schedule_name", value: "{TICK}"}}'
    query = "runsOrError(filter: {tags: [%s]}) { ... on Runs { results { status } } }"
    return [run["status"] for run in site.graphql(f"{{ {query % tag} }}")["runsOrError"]["results"]]
