"""The one partitioning of all assets: days in UTC, today among them. Not here: windows inside a day (`migration`)."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import dagster as dg

from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.settings import SettingsError, load_settings

PARTITION = "dagster/partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
FALLBACK_START = "2026-01-01"


def start_date() -> str:
    """First day, from DEFENDER_START_DATE.

    A bad setting must not keep the code location from loading, where nobody could read the error: the default is taken,
    and every run says what is wrong.
    """
    try:
        return load_settings().defender_start_date.isoformat()
    except SettingsError:
        return FALLBACK_START


daily = dg.DailyPartitionsDefinition(start_date=start_date(), timezone="UTC", end_offset=1)
"""`end_offset=1`: the day that is not over yet is a partition, too."""


def window_of(time_window: dg.TimeWindow) -> Window:
    """The window of one partition or of a range of them."""
    return Window(time_window.start, time_window.end)


def whole_days(keys: Iterable[str], window: Window) -> list[str]:
    """Of some partitions, those that a window has from their first instant on.

    A tick may begin in the middle of a day, and has then not counted the day's rows before that.
    """
    return [key for key in keys if window.start <= parse_instant(f"{key}T00:00:00Z")]


def keys_between(first: datetime, last: datetime) -> list[str]:
    """Keys of the partitions from the one of `first` to the one of `last`, as far as they exist."""
    low, high = first.date().isoformat(), last.date().isoformat()
    return [key for key in daily.get_partition_keys() if low <= key <= high]


def partitions_of(tags: Mapping[str, str]) -> str:
    """The partition of a run, or the first and the last of its range; empty without one."""
    if RANGE_START in tags:
        return f"{tags[RANGE_START]}...{tags[RANGE_END]}"
    return tags.get(PARTITION, "")
