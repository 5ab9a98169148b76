"""The report of a failed load: every kind of error has its steps, and no text breaks the Markdown around it."""

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.adx import errors as adx
from defender_adx_pipeline.catalogue import CatalogueError, load_catalogue
from defender_adx_pipeline.defender import errors as hunting
from defender_adx_pipeline.defs.advice import EXPECTED, UNTIL_MENDED, steps
from defender_adx_pipeline.defs.failure_report import FailedLoad
from defender_adx_pipeline.migration import errors as engine
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.configuration import NOT_LOADED
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.settings import SettingsError

START = datetime(2026, 11, 19, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(days=1))
EVENTS, SNAPSHOT = (load_catalogue()[name] for name in ("DeviceEvents", "DeviceTvmSoftwareInventory"))


def failed(error: BaseException, **changes: Any) -> FailedLoad:
    tally = Tally(1000, 600, 500, 400, window=WINDOW, watermark="2026-11-18T23:59:59.1234567Z")
    known = {"table": EVENTS, "error": error, "run_id": "run", "partitions": "2026-11-19", "tally": tally}
    return FailedLoad(**{**known, **changes})


def slices(count: int, reason: str = "") -> list[dict[str, Any]]:
    day = {"WindowStart": "2026-11-19T00:00:00Z", "WindowEnd": "2026-11-19T01:00:00Z"}
    return [{"State": "Queued", **day, "ExpectedRows": 1200, "Attempt": 2, "Reason": reason} for _ in range(count)]


def test_it_says_what_happened_what_is_there_what_is_open_and_where_to_look() -> None:
    report = failed(
        engine.CountMismatchError("DeviceEvents: 100 are missing"), open_slices=slices(2, "slow")
    ).markdown()
    for part in (
        "## The load of DeviceEvents failed",
        "DeviceEvents: 100 are missing",
        "| window | [2026-11-19T00:00:00Z, 2026-11-20T00:00:00Z) |",
        "| 1,000 | 600 | 400 |",
        "500 rows of this attempt are confirmed in ADX. The watermark is 2026-11-18T23:59:59.1234567Z",
        "Defender keeps its first rows until 2026-12-19T00:00Z",
        "2 slices, which the next run goes on with:",
        "| Queued | 2026-11-19T00:00:00 to 2026-11-19T01:00:00 | 1,200 | 2 | slow |",
        "1. Run the partition again",
        "defender-adx sync DeviceEvents --from 2026-11-19 --to 2026-11-20",
        "```kusto\nMigrationAuditLog",
        "```kusto\nDeviceEvents | where Timestamp >= datetime(2026-11-19",
    ):
        assert part in report


def test_an_attempt_that_got_nowhere_has_no_numbers_and_no_window() -> None:
    report = failed(SettingsError("DEFENDER_SETTLE: not a duration"), tally=None).markdown()
    assert "DeviceEvents: DEFENDER_SETTLE: not a duration" in report
    assert "This attempt loaded nothing" in report
    assert "none was chosen yet" in report
    assert "It could not be asked for." in report
    assert "rows in Defender" not in report


def test_a_table_that_was_never_loaded_has_no_watermark_to_tell() -> None:
    tally = Tally(window=WINDOW, watermark=NOT_LOADED)
    assert "1900" not in failed(engine.NotConfirmedError("slow"), tally=tally, open_slices=[]).markdown()


def test_of_a_snapshot_it_says_until_when_it_can_be_taken() -> None:
    report = failed(engine.SnapshotMismatchError("it changed"), table=SNAPSHOT, open_slices=slices(11)).markdown()
    for part in ("## The snapshot of", "until the day is over", "the first 10:", "defender-adx sync DeviceTvm"):
        assert part in report
    assert "--from" not in report


def test_what_is_lost_for_ever_is_not_said_to_be_kept() -> None:
    assert "cannot be had any more" in failed(engine.LostRowsError("gone")).markdown()
    assert "until they are 30 days old" in failed(engine.DeadLetterError("large")).markdown()


def test_notes_of_an_error_are_part_of_what_happened() -> None:
    error = engine.NotConfirmedError("DeviceEvents: slow.")
    error.add_note("The audit row could not be written either: no")
    assert failed(error).headline() == "DeviceEvents: slow. The audit row could not be written either: no"


def test_an_error_without_a_message_is_told_by_its_name() -> None:
    assert failed(KeyError()).headline() == "DeviceEvents: KeyError"


def own_errors() -> list[type[Exception]]:
    found = [SettingsError, CatalogueError]
    for module in (engine, hunting, adx):
        found += [
            each
            for _, each in inspect.getmembers(module, inspect.isclass)
            if issubclass(each, EXPECTED) and each.__module__ == module.__name__
        ]
    return found


@pytest.mark.parametrize("kind", own_errors(), ids=lambda kind: kind.__name__)
def test_every_error_for_the_operator_has_steps_and_is_no_bug(kind: type[Exception]) -> None:
    said = steps(kind.__new__(kind))
    assert said
    assert "This is a bug" not in said[0]


def test_any_other_error_is_a_bug_and_says_so() -> None:
    assert "This is a bug" in steps(KeyError("x"))[0]


def test_what_has_to_be_mended_is_not_tried_again_and_what_goes_away_is() -> None:
    assert issubclass(hunting.PermissionDeniedError, UNTIL_MENDED)
    for kind in (hunting.ThrottledError, adx.AdxUnreachableError, engine.NotConfirmedError):
        assert not issubclass(kind, UNTIL_MENDED)


@given(st.text(), st.text())
def test_no_text_of_a_ledger_row_ends_its_row_of_the_table(reason: str, partitions: str) -> None:
    report = failed(engine.NotConfirmedError("x"), partitions=partitions, open_slices=slices(1, reason)).markdown()
    (row,) = [line for line in report.split("\n") if line.startswith("| Queued |")]
    plain = row.replace("\\\\", "").replace("\\|", "")
    assert plain.count("|") == 6


@given(st.text(st.sampled_from("` \nx"), max_size=12))
def test_no_text_of_an_error_takes_in_the_queries(said: str) -> None:
    report = failed(engine.NotConfirmedError(said), open_slices=[]).markdown()
    assert sum(line.startswith("```") for line in report.split("\n")) % 2 == 0
