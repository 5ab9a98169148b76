"""What a person does and sees in Dagster's page, as functions over a page.

The page's words are Dagster's, so a new version of Dagster may need another label here. Not here: what the tests
assert, which is the project's: names, groups, numbers, and that the numbers are true.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from playwright.sync_api import Locator, Page, expect

from defender_adx_pipeline_tests.browser.site import Site, eventually

RUN_MILLISECONDS = 300_000
"""How long a run may take until the page shows that it has ended."""

expect.set_options(timeout=60_000)


class Progress(NamedTuple):
    """Partitions of one asset on the page of a backfill."""

    targeted: int
    in_progress: int
    succeeded: int
    failed: int


def node(page: Page, name: str) -> Locator:
    """The box of an asset or a group in the graph."""
    return page.locator("svg").get_by_text(name, exact=True).and_(page.locator("[data-tooltip]"))


def leftmost(nodes: Locator) -> Locator:
    """Of boxes with the same name, the one that the others come from."""

    def left(box: Locator) -> float:
        bounds = box.bounding_box()
        assert bounds is not None
        return bounds["x"]

    return min(nodes.all(), key=left)


def zoom_out(page: Page, times: int) -> None:
    """Make the graph smaller."""
    button = page.get_by_role("button").filter(has=page.get_by_role("img", name="zoom_out"))
    for _ in range(times):
        button.click()


def pull_up(page: Page, group: str) -> None:
    """Move the graph until an open group begins at the top of the window; which groups lie around it differs."""
    header = page.locator("svg").get_by_text(group, exact=True).last.bounding_box()
    assert header is not None
    page.mouse.move(620, 700)
    page.mouse.down()
    page.mouse.move(620, 700 + 150 - header["y"], steps=5)
    page.mouse.up()


def metadata(page: Page, known: str = "rows_loaded") -> dict[str, str]:
    """The table of metadata in view, as text; it has an entry that is `known`."""
    expect(page.get_by_role("cell", name=known, exact=True)).to_be_visible()
    cells = [row.get_by_role("cell").all_inner_texts() for row in page.get_by_role("row").all()]
    return {row[0].strip(): row[1].strip() for row in cells if len(row) >= 2}


def open_asset(page: Page, *path: str) -> None:
    """Search for an asset and open it."""
    page.goto("/")
    page.get_by_role("button", name="Search").first.click()
    page.keyboard.type(path[-1])
    page.locator(f"a[href$='/assets/{'/'.join(path)}']").first.click()
    expect(page.get_by_role("tab", name="Lineage")).to_be_visible()


def choose_partitions(page: Page, partitions: str, count: int) -> Locator:
    """In the dialog of a launch: a partition, or a range `[a...b]`; gives the dialog."""
    dialog = page.get_by_role("dialog")
    field = dialog.get_by_role("textbox").first
    field.fill(partitions)
    field.press("Enter")
    expect(dialog.get_by_text(f"{count} partition{'' if count == 1 else 's'}", exact=True)).to_be_visible()
    return dialog


def materialize(page: Page, day: str) -> None:
    """From the page of an asset: launch the run of a day, and go to the run."""
    page.get_by_role("button", name="Materialize…").click()
    launch_one(page, choose_partitions(page, day, 1))


def launch_one(page: Page, dialog: Locator) -> None:
    """Launch the one run of the dialog, and go to it."""
    launch(page, dialog.get_by_role("button", name="Launch 1 run"))


def launch(page: Page, button: Locator) -> None:
    """Click what launches a run or a backfill, and go to it by the note that the page then shows."""
    # A note stays for some seconds: the one of the launch before may still be there.
    earlier = page.locator("a[href*='/runs/']").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    button.click()
    later = page.locator("a" + "".join(f":not([href='{address}'])" for address in earlier))
    page.get_by_role("link", name="View", exact=True).and_(later).click()


def await_run(page: Page, state: str) -> None:
    """On the page of a run: wait for the state it ends in."""
    # The state is a `div` at the top; an observation in the log below has the same words in a cell.
    shown = page.locator("div").get_by_text(state, exact=True).and_(page.locator("div"))
    expect(shown.first).to_be_visible(timeout=RUN_MILLISECONDS)


def select_in_catalog(page: Page, selection: str, count: int) -> None:
    """On the list of assets: filter it, and tick all that is left."""
    page.get_by_role("link", name="Catalog").click()
    expect(page.get_by_role("button", name="Materialize selected")).to_be_visible()
    page.locator(".CodeMirror").click()
    page.keyboard.type(selection)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("checkbox")).to_have_count(count + 1)
    page.locator("label").filter(has=page.get_by_role("checkbox")).first.click()
    page.get_by_role("button", name=f"Materialize selected ({count})").click()


def progress(page: Page) -> Mapping[str, Progress]:
    """The table on the page of a backfill, by asset."""
    expect(page.get_by_text("Partitions targeted")).to_be_visible()
    expect(page.get_by_text(re.compile(r"% completed$")).first).to_be_visible()
    found = re.findall(
        r"adx / (\w+)\s+\d+% completed\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", page.locator("body").inner_text()
    )
    return {name: Progress(*map(int, numbers)) for name, *numbers in found}


def open_automation(page: Page, name: str) -> None:
    """Open a schedule or a sensor from the list of them."""
    page.goto("/automation")
    page.get_by_text(name, exact=True).click()
    expect(page.get_by_role("button", name="Preview tick result")).to_be_visible()


@contextmanager
def switch(page: Page) -> Iterator[None]:
    """On the page of a schedule or a sensor: on meanwhile, by its switch."""
    row = page.locator("tr").filter(has=page.get_by_text("Running", exact=True))
    toggle = row.locator("label")
    toggle.click()
    expect(toggle.locator("input")).to_be_checked()
    try:
        yield
    finally:
        toggle.click()
    expect(toggle.locator("input")).not_to_be_checked()


def reload_definitions(page: Page, site: Site) -> None:
    """Load the code location anew, as after a change of its environment."""
    query = """{ workspaceOrError { ... on Workspace { locationEntries {
        locationOrLoadError { ... on RepositoryLocation { serverId } }
    } } } }"""

    def server() -> str | None:
        (entry,) = site.graphql(query)["workspaceOrError"]["locationEntries"]
        return (entry["locationOrLoadError"] or {}).get("serverId")

    before = server()
    page.goto("/deployment/locations")
    page.get_by_role("button", name="Reload").last.click()
    # One reload updates the location twice; its server has a new id once, with the new environment.
    eventually(lambda: server() not in (None, before), 300, "the code location is not loaded anew")
