"""`make ui` as a process: it starts from nothing, it says nothing alarming, and it leaves nothing behind."""

import signal
from pathlib import Path

import pytest

from defender_adx_pipeline_tests.browser.site import eventually, interrupt, serving
from defender_adx_pipeline_tests.conftest import OpenTenant

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

ALARMS = ("ERROR", "Traceback", "Error loading", "BetaWarning", "PreviewWarning")


@pytest.fixture
def quick_home(open_tenant: OpenTenant, tmp_path: Path) -> Path:
    """Few rows, so that starting does not take long; nothing in ADX, as before any demo."""
    folder = tmp_path / "home"
    with open_tenant(folder, scale=0.001):
        return folder


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_it_starts_before_any_demo_and_ends_all_that_it_started(quick_home: Path, how: str):
    with serving(quick_home) as site:
        family = site.family()
        names = " ".join(" ".join(process.cmdline()) for process in family)
        for part in ("defender_adx_pipeline.cli local", "dagster_webserver", "dagster._daemon"):
            assert part in names
        said = site.log.read_text()
        assert "statements applied" in said
        assert "Serving dagster-webserver" in said
        assert not [alarm for alarm in ALARMS if alarm in said]
        if how == "Ctrl-C":
            interrupt(site)
        else:
            site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(40) != 0
        # Dagster's code server notices by itself that its client is gone.
        eventually(lambda: not any(process.is_running() for process in family), 20, f"left: {family}")
        assert not (quick_home / "tenant.json").exists()
