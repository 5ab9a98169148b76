"""What is wrong around the pipeline shows in the page as one readable error with the mend: of a run, and of a tick."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from defender_adx_pipeline_tests.browser import TICK
from defender_adx_pipeline_tests.browser.conftest import Picture, days_ago
from defender_adx_pipeline_tests.browser.pages import (
    await_run,
    materialize,
    open_asset,
    open_automation,
    reload_definitions,
)
from defender_adx_pipeline_tests.browser.site import Site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TABLE = "UrlClickEvents"
"""Of which nothing is ever loaded."""

Making = Callable[[Page, Site], AbstractContextManager[None]]


@dataclass(frozen=True)
class Trouble:
    """What is wrong, how it is made, and what a message about it has to say: what happened, and what to do."""

    name: str
    make: Making
    says: tuple[str, ...]
    seen_at_once: bool = False
    """Whether it is seen before anything has run."""


def with_settings(**settings: str) -> Making:
    """Settings of the code location, by its environment and "Reload definitions"; afterwards those of the tenant."""

    @contextmanager
    def make(page: Page, site: Site) -> Iterator[None]:
        changed = {name: site.environment()[name] for name in settings if name in site.environment()}
        site.change_settings(**settings)
        reload_definitions(page, site)
        try:
            yield
        finally:
            site.change_settings(**changed)
            reload_definitions(page, site)

    return make


def with_fault(service: str, kind: str) -> Making:
    return lambda page, site: site.failing(service, kind)


TROUBLES = [
    Trouble("a wrong setting", with_settings(DEFENDER_SETTLE="banana"), ("DEFENDER_SETTLE: ",), True),
    Trouble("no cluster", with_settings(ADX_CLUSTER_URI="http://127.0.0.1:9"), ("127.0.0.1", "Check ADX_CLUSTER_URI")),
    Trouble("no role", with_fault("engine", "forbidden"), ("Database Viewer", ".add database ")),
    Trouble("an expired secret", with_fault("entra", "expired_secret"), ("expired", "AZURE_CLIENT_SECRET")),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_trouble_is_one_readable_error_with_the_mend(page: Page, site: Site, picture: Picture, trouble: Trouble):
    with trouble.make(page, site):
        if trouble.seen_at_once:
            seen_before_anything_runs(page)
        open_automation(page, TICK)
        page.get_by_role("button", name="Preview tick result").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Continue").click()
        for part in (f"{TICK}: ", *trouble.says, "`defender-adx doctor`"):
            expect(dialog.get_by_text(part).first).to_be_visible(timeout=120_000)
        picture(page, "failed-tick")

        open_asset(page, "adx", f"{TABLE}Raw")
        materialize(page, days_ago(5))
        await_run(page, "Failure")
        expect(page.get_by_text("STEP_FAILURE").first).to_be_visible()
        for part in ("Failure: ", TABLE, *trouble.says):
            expect(page.get_by_text(part).first).to_be_visible()
        page.get_by_text("[Show Markdown]").last.click()
        expect(page.get_by_role("dialog").get_by_text("What to do").first).to_be_visible()


def seen_before_anything_runs(page: Page) -> None:
    """A sensor that runs by itself where the settings were wrong when the code location was loaded."""
    open_automation(page, "wrong_settings")
    expect(page.get_by_text("When the code location was loaded: ")).to_be_visible()
    failed = page.get_by_text("Failure", exact=True).or_(page.get_by_text("Failed", exact=True))
    expect(failed.first).to_be_visible(timeout=180_000)
