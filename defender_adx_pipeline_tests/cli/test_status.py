"""What `status` prints: bars, numbers, narrow and wide terminals, and a database without the monitoring functions."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from defender_adx_pipeline.cli.figures import Day, Figures, Quota
from defender_adx_pipeline.cli.status import TableState
from defender_adx_pipeline.cli.status_table import print_status, short_number, sparkline

DAYS = tuple(f"2026-11-{day:02}" for day in range(11, 25))
LONGEST = "DeviceTvmSecureConfigurationAssessmentKB"
GOOD = TableState(
    table="DeviceLogonEvents",
    destination="DeviceLogonEventsRaw",
    active=True,
    watermark="2026-11-24T13:00:00.0000000Z",
    lag_seconds=30_000.0,
    covered_from="2026-10-25T13:00:00Z",
    covered_to="2026-11-24T21:05:23Z",
    open_slices=0,
    audit_status="Success",
    audit_time="2026-11-24T21:15:26.5289640Z",
    audit_rows=120,
    reason="",
    kind="event",
    lag_state="ok",
    complete_until="2026-11-24T21:05:23Z",
    behind_seconds=1_800.0,
    failures=0,
    rows_today=12_345,
    bytes_today=9,
    rows_per_day=[0] * 12 + [1, 12_345],
)
STATES = [
    GOOD,
    replace(
        GOOD, table="DeviceInfo", audit_status="Failed", reason="the app may not [hunt]", failures=3, open_slices=2
    ),
    replace(GOOD, table="EmailEvents", active=False, lag_state="inactive", audit_status=""),
    replace(GOOD, table=LONGEST, published="2026-11-24T05:10:00.0000000Z", published_rows=1_234, lag_state="late"),
    replace(GOOD, table="AlertInfo", lag_state="never complete", behind_seconds=None, complete_until=None),
]
FIGURES = Figures(
    days=DAYS,
    lag={},
    failures={},
    loaded={"DeviceLogonEvents": {DAYS[-1]: Day(12_345, 2_000_000), DAYS[0]: Day(5, 5), "2026-01-01": Day(9, 9)}},
    quota=Quota(calls=720, waited_seconds=1.5, busiest_hour=412, calls_per_hour=1500),
)


def printed(width: int, states: list[TableState] = STATES, figures: Figures | None = FIGURES) -> list[str]:
    out = StringIO()
    print_status(states, figures, Console(file=out, width=width, soft_wrap=True))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("numbers", "bars"),
    [
        ([], ""),
        ([0, 0], "▁▁"),
        ([0, 1, 1_000_000], "▁▂█"),
        (list(range(8)), "▁▂▃▄▅▆▇█"),
        ([5], "█"),
    ],
)
def test_the_lowest_bar_means_none_and_every_other_some(numbers: list[int], bars: str) -> None:
    assert sparkline(numbers) == bars


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.00k"),
        (12_345, "12.3k"),
        (999_600, "1.00M"),
        (178_202_881, "178M"),
        (4e13, "40.0T"),
    ],
)
def test_a_number_takes_five_characters_at_most(number: float, text: str) -> None:
    assert short_number(number) == text
    assert len(text) <= 5


def test_a_terminal_of_80_columns_has_room_for_every_line_of_the_table() -> None:
    lines = printed(80)
    assert all(len(line) <= 80 for line in lines)
    (longest,) = [line for line in lines if LONGEST in line]
    assert longest.rstrip().endswith("▁" * 12 + "▂█")
    assert "12.3k" in longest


def test_a_wide_terminal_shows_what_is_complete_open_and_failed_and_the_totals_in_a_line() -> None:
    lines = printed(160)
    assert all(len(line.rstrip()) <= 160 for line in lines if "hunting calls" not in line)
    text = "\n".join(lines)
    for part in (
        "Success 2026-11-24 21:15",
        "2026-11-24 05:10, 1,234 rows",
        "30m",
        "off",
        "never",
        "DeviceInfo: the app may not [hunt]",
        "5 tables, 4 active, 2 late or not complete; today 12,345 rows, 2.00MB; 14 days 12,350 rows, 2.00MB;",
        "720 hunting calls today, 2.0% of the quota; busiest hour 412 of 1,500",
    ):
        assert part in text


def test_without_the_functions_it_says_bootstrap_and_tells_the_lag_by_the_watermark() -> None:
    plain = replace(GOOD, lag_state=None, behind_seconds=None, complete_until=None, rows_per_day=None, rows_today=None)
    for width in (80, 160):
        text = "\n".join(printed(width, [plain], None))
        assert "8h" in text
        assert "`defender-adx bootstrap`" in text
        assert "▁" not in text


def test_totals_are_those_of_the_days_that_were_asked_for() -> None:
    assert FIGURES.as_dict() == {
        "days": 14,
        "rows": 12_350,
        "bytes": 2_000_005,
        "rows_today": 12_345,
        "bytes_today": 2_000_000,
        "calls_today": 720,
        "calls_share": 0.02,
        "calls_busiest_hour": 412,
        "calls_per_hour": 1500,
        "quota_wait_seconds_today": 1.5,
    }
    assert FIGURES.rows_per_day("DeviceLogonEvents") == [5, *[0] * 12, 12_345]
    assert FIGURES.today("AlertInfo") == Day()
