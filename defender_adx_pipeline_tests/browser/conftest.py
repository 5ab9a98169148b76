"""Fixtures of the browser tests: one small tenant, one `make ui` over it, and pages of one Chromium.

With DEFENDER_ADX_PICTURES=FOLDER the tests write their screenshots there (`make pictures`). For those, what they show
is loaded first, but for the days that a test loads.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as TooSlow

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.cli import tenancy
from defender_adx_pipeline_tests.browser.site import ROOT, VENV, Site, serving
from defender_adx_pipeline_tests.conftest import OpenTenant

TABLE = "DeviceLogonEvents"
"""Has as many rows as in the demo."""
LEFT_OUT = (3, 6, 10, 11, 12)
"""Days ago of which a test loads its rows."""
GROUP = "cloud"
"""The group whose assets the picture of the graph shows."""

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = {"width": 1600, "height": 1000}

WITHOUT_PATHS = """folders => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
        for (const folder of folders)
            texts.currentNode.data = texts.currentNode.data.replaceAll(folder, "...");
}"""
"""Stacks in a picture name no folders of the machine that it was taken on."""

Picture = Callable[[Page, str], None]


def pictures_folder() -> Path | None:
    folder = os.environ.get("DEFENDER_ADX_PICTURES")
    return Path(folder) if folder else None


def days_ago(days: int) -> str:
    """A partition; each test that loads has days of its own."""
    return (datetime.now(UTC) - timedelta(days=days)).date().isoformat()


@pytest.fixture(scope="session")
def day() -> str:
    """A whole day of the tenant, which nobody has loaded."""
    return days_ago(3)


@pytest.fixture(scope="session")
def home(open_tenant: OpenTenant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose tenant has all tables, one of them with as many rows as the demo gives it."""
    folder = tmp_path_factory.mktemp("browser") / "home"
    with open_tenant(folder, tables=[TABLE]):
        pass
    with open_tenant(folder, scale=0.02, quota_clock_scale=20) as tenant:
        if pictures_folder():
            environment = {**os.environ, **tenant.environment(), **tenancy.dagster_environment(folder)}
            subprocess.run(
                [VENV / "bin" / "defender-adx", "bootstrap"], env=environment, check=True, capture_output=True
            )
            _load_before(environment)
    return folder


@pytest.fixture(scope="session")
def site(home: Path) -> Iterator[Site]:
    with serving(home, as_shipped=False) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(f"no Chromium in {CHROMIUM}: apt-get install chromium, or name another in the variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, site: Site) -> Iterator[Page]:
    """A page with a fresh profile that allows nothing but the site, and reports what broke in it."""
    broken: list[str] = []
    with chromium.new_context(viewport=SIZE, base_url=site.url, timezone_id="UTC", locale="en-US") as context:
        opened = context.new_page()
        opened.set_default_timeout(60_000)
        opened.on("pageerror", lambda error: broken.append(str(error)))
        opened.on("response", lambda answer: answer.status >= 400 and broken.append(f"{answer.status} {answer.url}"))
        yield opened
    assert broken == []


@pytest.fixture
def picture() -> Picture:
    """Writes a screenshot, when they are asked for."""
    folder = pictures_folder()

    def take(shown: Page, name: str) -> None:
        if folder is None:
            return
        shown.mouse.move(SIZE["width"] - 5, 5)
        with suppress(TooSlow):  # a page that polls is hardly ever idle
            shown.wait_for_load_state("networkidle", timeout=10_000)
        shown.evaluate(WITHOUT_PATHS, [str(ROOT), str(VENV.parent), sys.base_prefix])
        path = folder / f"{name}.png"
        shown.screenshot(path=path, animations="disabled")
        if shutil.which("pngquant"):
            subprocess.run(["pngquant", "--force", "--strip", "--output", path, "128", path], check=True)

    return take


def _load_before(environment: dict[str, str]) -> None:
    """Runs over all days of the tables that the pictures show, but for the days that a test loads."""
    first, last = environment["DEFENDER_START_DATE"], days_ago(0)
    shown = ",".join(table.name for table in load_catalogue().events() if table.group == GROUP)
    _launch(first, last, [f"{GROUP}={shown}"], environment)
    oldest_first = sorted(LEFT_OUT, reverse=True)
    starts = [first, *(days_ago(days - 1) for days in oldest_first)]
    ends = [*(days_ago(days + 1) for days in oldest_first), last]
    for start, end in zip(starts, ends, strict=True):
        if start <= end:
            _launch(start, end, [f"devices={TABLE}"], environment)


def _launch(first: str, last: str, runs: list[str], environment: dict[str, str]) -> None:
    module = [sys.executable, "-m", "defender_adx_pipeline.defs.launch"]
    subprocess.run([*module, "--first", first, "--last", last, *runs], env=environment, check=True, capture_output=True)
