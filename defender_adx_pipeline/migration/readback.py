"""Reading a window of a raw or a typed table back from ADX, in answers below its limits.

Kusto cuts an answer at 500,000 rows or 64 MB ("Query limits") and says so; so a window is read in parts that its counts
say will fit, and a part that does not fit after all is halved: by time, and by hash where one microsecond holds more
than an answer. Not here: data frames (`defs.frames`).
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import orjson

from defender_adx_pipeline.adx import kql, typed_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import PartialResultError
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.migration.slices import Bucket
from defender_adx_pipeline.migration.windows import Window, bin_floor

_ROWS_PER_PART = 20_000
_GRAIN = timedelta(hours=1)
_MOST_BUCKETS = 2**12
"""Of one microsecond: 4,096 answers of 64 MB."""


def records(
    adx: AdxClient, table: str, time_column: str, window: Window, *, ingested_since: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """Every record of the window, in no particular order.

    With `ingested_since`, of the rows alone that were ingested since then or have no ingestion time: without it, ADX
    reads the JSON of the whole table, once for each part of the window.

    Raises:
        PartialResultError: one microsecond holds more than thousands of answers of ADX.
        AdxError: ADX could not be asked.
    """
    for part in _parts(adx, table, time_column, window, ingested_since):
        yield from records_of_part(adx, table, time_column, part, ingested_since=ingested_since)


def _parts(adx: AdxClient, table: str, time_column: str, window: Window, since: datetime | None) -> Iterator[Window]:
    counts = kql.time_counts(table, time_column, window.start, window.end, _GRAIN, ingested_since=since)
    counted = {parse_instant(row["Bin"]): int(row["Rows"]) for row in adx.query(counts)}
    start, rows, end = None, 0, window.start
    for part in window.bins(_GRAIN):
        count = counted.get(bin_floor(part.start, _GRAIN), 0)
        if start is not None and rows + count > _ROWS_PER_PART:
            yield Window(start, end)
            start, rows = None, 0
        if count and start is None:
            start = part.start
        rows, end = rows + count, part.end
    if start is not None:
        yield Window(start, end)


def records_of_part(
    adx: AdxClient,
    table: str,
    time_column: str,
    window: Window,
    bucket: Bucket | None = None,
    *,
    ingested_since: datetime | None = None,
) -> Iterator[dict[str, Any]]:
    """Every record of a window that should fit into one answer, in halves where it does not.

    Raises:
        As `records`.
    """
    query = kql.records_in_window(
        table, time_column, window.start, window.end, ingested_since=ingested_since, bucket=bucket
    )
    try:
        # Taken whole before any is given on: an answer that turns out partial is read again in halves.
        rows = [row["Record"] for row in adx.query(query)]
    except PartialResultError:
        parts = _halves(window, bucket)
        if not parts:
            raise
        for half, part in parts:
            yield from records_of_part(adx, table, time_column, half, part, ingested_since=ingested_since)
        return
    for text in rows:
        yield orjson.loads(text)


def typed_rows(
    adx: AdxClient, table: DefenderTable, window: Window, bucket: Bucket | None = None
) -> Iterator[dict[str, Any]]:
    """Every typed row of a window, in no particular order; of a snapshot table the window is one of SnapshotTime.

    Times are text with seven digits, dynamic values are what their JSON says.

    Raises:
        As `records`.
    """
    query = typed_kql.rows_in_window(table, window.start, window.end, bucket=bucket)
    try:
        rows = adx.query(query)
    except PartialResultError:
        parts = _halves(window, bucket)
        if not parts:
            raise
        for half, part in parts:
            yield from typed_rows(adx, table, half, part)
        return
    yield from rows


def _halves(window: Window, bucket: Bucket | None) -> list[tuple[Window, Bucket | None]]:
    """What a part that does not fit is read in; nothing where it cannot be smaller."""
    halves = window.halves()
    if halves is not None:
        return [(half, None) for half in halves]
    whole = bucket or Bucket(0, 1)
    return [(window, part) for part in whole.halves()] if whole.of < _MOST_BUCKETS else []
