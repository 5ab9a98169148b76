"""Which window a run takes: a whole partition, a tick from the watermark, clipped to what can be read.

Pure functions of times. Not here: what is in the window (`planning`).
"""

from datetime import datetime, timedelta

from defender_adx_pipeline.migration.errors import WindowNotReadableError
from defender_adx_pipeline.migration.windows import Window

KEPT = timedelta(days=30)
"""How long Defender keeps rows ("Advanced hunting quotas": query data from the past 30 days)."""

EDGE = timedelta(minutes=15)
"""Rows this close to falling out of Defender are left alone: they could vanish between a count and its read."""


def readable_since(now: datetime) -> datetime:
    """The earliest instant that can be read reliably."""
    return now - KEPT + EDGE


def readable(asked: Window, *, now: datetime, settle: timedelta, table: str) -> Window:
    """The part of a window that Defender still has and that has settled.

    Raises:
        WindowNotReadableError: nothing of it is left, or nothing of it has settled yet.
    """
    earliest, latest = readable_since(now), now - settle
    if asked.end <= earliest:
        raise WindowNotReadableError(
            f"{table} {asked}: Defender keeps {KEPT.days} days, so nothing of this window can be read any more."
            " No row was read or loaded, and what ADX already has stays. The window cannot be had from Defender;"
            " run a partition of the last 30 days instead."
        )
    if asked.start >= latest:
        raise WindowNotReadableError(
            f"{table} {asked}: the window has not settled: rows newer than {settle} are left to a later run, since some"
            " of them have not arrived yet. If the window lies in the past, this machine's clock is behind. Run again"
            f" after {(asked.start + settle).isoformat()}."
        )
    return Window(max(asked.start, earliest), min(asked.end, latest))


def tick_window(
    *, covered: datetime | None, now: datetime, settle: timedelta, overlap: timedelta, table: str
) -> Window:
    """The window of a scheduled tick: from `overlap` before what is covered up to what has settled.

    Args:
        covered: up to where the table is complete, by its watermark or its ledger; None when nothing is.
        now: the present.
        settle: how old a row must be.
        overlap: how far back late rows are looked for.
        table: for the message.

    Raises:
        WindowNotReadableError: the watermark lies in the future, so a clock is wrong.
    """
    end, earliest = now - settle, readable_since(now)
    if covered is None:
        return Window(earliest, end)
    start = max(covered - overlap, earliest)
    if start >= end:
        raise WindowNotReadableError(
            f"{table}: it is complete up to {covered.isoformat()}, which is not before {end.isoformat()}, the newest"
            " instant that has settled by this machine's clock. Nothing was read. Check the clock (NTP) and the"
            " watermark in MigrationConfiguration."
        )
    return Window(start, end)
