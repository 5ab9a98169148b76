"""The parts of the simulated days that `make days` stands on: its clock, and what its judge finds wrong."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.days_clock import Clock, ClockError, made
from defender_adx_pipeline_tests.days_judging import hole, overlapping
from defender_adx_pipeline_tests.days_outcome import Course, Outcome

BEGIN = datetime(2031, 5, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)

ASKED = """
import sqlite3, time
from datetime import datetime, UTC
began = time.monotonic()
time.sleep(0.01)
print(datetime.now(UTC).isoformat())
print(sqlite3.connect(":memory:").execute("SELECT CURRENT_TIMESTAMP").fetchone()[0] + "+00:00")
print(time.monotonic() - began < 3600)
"""


def window(first: float, last: float) -> Window:
    return Window(BEGIN + first * HOUR, BEGIN + last * HOUR)


def test_python_and_sqlite_go_by_the_clock_and_waits_do_not(tmp_path: Path) -> None:
    try:
        variables = made(tmp_path, BEGIN)
    except ClockError as error:
        pytest.skip(str(error))
    Clock(tmp_path / "clock").run(1e6)
    done = subprocess.run(
        [sys.executable, "-c", ASKED], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    python, sqlite, waited = done.stdout.split("\n")[:3]
    # A second is eleven days and a half, and the wait was real.
    assert datetime.fromisoformat(python) > BEGIN + 2 * HOUR
    assert datetime.fromisoformat(sqlite) > BEGIN + 2 * HOUR
    assert waited == "True"


def test_a_partition_that_no_window_covers_to_its_end_is_found() -> None:
    assert hole([window(-3, 2), window(1, 5), window(5, 25)], window(0, 24)) is None
    assert hole([window(-3, 2), window(3, 25)], window(0, 24)) == BEGIN + 2 * HOUR
    assert hole([window(0, 23)], window(0, 24)) == BEGIN + 23 * HOUR
    assert hole([], window(0, 24)) == BEGIN


def test_steps_that_ran_at_the_same_time_are_found_whatever_is_between_them() -> None:
    assert list(overlapping([(3.0, 4.0, "c"), (1.0, 2.0, "a"), (2.0, 3.0, "b")])) == []
    assert list(overlapping([(1.0, 9.0, "a"), (2.0, 3.0, "b"), (8.0, 10.0, "c")])) == [("a", "b"), ("a", "c")]


def test_a_failure_is_explained_by_an_outage_alone() -> None:
    course = Course(BEGIN, BEGIN + 24 * HOUR, outages=[(BEGIN + 5 * HOUR, BEGIN + 7 * HOUR)])
    assert course.is_disturbed(BEGIN + 4 * HOUR, BEGIN + 6 * HOUR)
    assert course.is_disturbed(BEGIN + 7.5 * HOUR, BEGIN + 9 * HOUR)
    assert not course.is_disturbed(BEGIN + 1 * HOUR, BEGIN + 4 * HOUR)
    assert not course.is_disturbed(BEGIN + 9 * HOUR, BEGIN + 10 * HOUR)


@pytest.mark.parametrize("wrong", ["missing", "duplicates", "forgotten", "overlaps", "unexplained"])
def test_one_thing_that_is_wrong_is_enough(wrong: str) -> None:
    outcome = Outcome(rows=5, runs={"FAILURE": 3}, ticks_missed=7)
    assert outcome.exact
    setattr(outcome, wrong, 1)
    assert not outcome.exact
    assert outcome.facts()[wrong] == 1
