"""Typed rows made anew out of the raw records: `defender-adx schema backfill`.

Here: what has to be there, counting, replacing part by part and the proof of each. Not here: how a table is cut into
parts (`backfill_parts`), the statements (`adx.typed_backfill`), the conversion (`adx.typed_tables`), and making the
columns that a tenant has (`drift`).

It is for rows that were loaded before the update policy was set, and for older rows after a column was added or changed
its type. A part, a window of the rows' own time, is replaced by one `.update table`: who reads sees its old rows or its
new ones. Parts come oldest first, each proven before the next one begins, so that whatever ends a backfill, the parts
before its end are done and running it again over all is the same as going on.

**Beside a running load.** The Kusto docs say that `.update table` deletes and appends as one transaction, and that its
two queries may run more than once. They do not say that both see the same moment. A load that lands in between may
therefore be deleted and not made anew, or made anew beside the row that its update policy made. Neither can stay: after
each part one query, which sees one moment, counts its raw and typed rows and adds up a hash of what names each row.
Where the two differ the part is replaced again, out of raw records that no step here ever changes. Rows that land after
the proof are typed by the update policy, which has to be there.

**What it costs.** A raw record has its time inside its JSON, so that finding the rows of a window takes reading the
whole raw table. That is done twice, however many parts there are: at the start for the counts, at the end for the last
proof. Bounds (`start`, `end`) make neither smaller. The parts themselves, which are replaced and proven one by one,
read only what was ingested when their rows were:

- The first count also asks when the raw rows of each bin of time were ingested. A part reads from the first to the last
  of these moments, whatever lies between a row's time and its ingestion: of rows that came within the hour a few
  extents, of a day into which an archive was imported a year later the whole year, snapshots by SnapshotTime and rows
  without a time like all others. Nothing is assumed of clocks, nor of how late a row may be.
- Rows that arrive after that count may be of any time. So a part reads in addition whatever was ingested since the
  count, and within `ARRIVING` before it by the cluster's clock: the docs call `ingestion_time()` approximate, and what
  was being committed as the count began may bear an earlier one.
- Rows without an ingestion time, as those from before the raw table had the policy, cannot be told by it, nor can any
  where `ingestion_time()` does not come through the expand function. A part with such rows reads the whole table.
- What is left are rows that arrive during the backfill with an ingestion time from before it: extents that somebody
  moved into the raw table. A part can then delete a typed row whose raw one it does not read, and its proof does not
  see that either. So at the end raw and typed rows are counted again over the whole table, and bins with fewer typed
  rows are replaced once more without any bound of ingestion. A backfill that ended with an error has not come to this:
  run it over all once the error is mended when extents were moved into the raw table meanwhile.

**What else the command changes**, since it has no property for it: the new rows have a new `ingestion_time()`; their
extents have no `ingest-by:` tags, by which `.show table T extents` would find a slice (the pipeline looks for them in
the raw table alone); retention and hot cache are counted anew from the day of the backfill, so that typed rows outlive
the raw ones, by their age at most. `.delete table T records` removes those that have to go sooner. A materialized view
over a typed table keeps what it made of the old rows. When raw records have gone by retention before their typed rows,
expanding anew would take the typed rows away, too: that is refused, unless asked for.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import orjson

from defender_adx_pipeline.adx.errors import AdxError, AdxPermissionError, AdxUnreachableError, MissingObjectError
from defender_adx_pipeline.adx.kql import table_columns
from defender_adx_pipeline.adx.state_kql import present
from defender_adx_pipeline.adx.typed_backfill import (
    Ingested,
    Part,
    expand_anew,
    key_of,
    part_counts,
    time_bins,
    time_of,
    update_policies,
)
from defender_adx_pipeline.adx.typed_tables import expand_name, typed_table_name
from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.instants import parse_instant
from defender_adx_pipeline.migration.backfill_parts import GRAINS, Bin, bin_part, packed
from defender_adx_pipeline.migration.errors import BackfillError

ROWS_PER_PART = 500_000
"""A tenth of what one command may delete; at 1 KB a row half of the 1 GB that one should append."""

TRIES = 4
"""How often a part is replaced until its rows are as many as the raw ones: each time a load has to land within it."""

COUNTING = timedelta(minutes=30)
"""How long the cluster may take to count a table, for which it reads the time in every raw record."""

ARRIVING = timedelta(days=1)
"""How long before the first count a row may have been ingested that it did not see. A load takes minutes, and a command
an hour at most; each part reads what was ingested within this time."""


class BackfillClient(Protocol):
    """The part of `AdxClient` that is used here."""

    def query(self, kql: str, *, timeout: timedelta | None = None) -> Sequence[Mapping[str, Any]]:
        """The rows that a query answers."""
        ...

    def command(self, text: str, *, idempotent: bool) -> Sequence[Mapping[str, Any]]:
        """The rows that a management command answers."""
        ...


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did."""

    rows: int
    """Typed rows that the parts have now; as many as they have raw ones."""
    windows: int
    """Parts that were replaced."""
    seconds: float


def backfill(
    adx: BackfillClient,
    table: DefenderTable,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    rows_per_part: int = ROWS_PER_PART,
    delete_surplus: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> Backfilled:
    """Expand raw rows anew into the typed table. Doing it twice is the same as doing it once.

    Args:
        adx: the database; the identity needs Table Admin of the typed table.
        table: the Defender table, whose rows are in its own raw table.
        start: first instant of the rows' own time (of a snapshot table: SnapshotTime); no bound when absent.
        end: first instant after it; no bound when absent. With neither bound, rows whose time is null are a part, too.
        rows_per_part: rows that one command may replace; a part is cut where it has more.
        delete_surplus: whether typed rows may go of which there is no raw record any more.
        tell: is told what is done, in sentences.

    Raises:
        BackfillError: there is no typed table, function or policy, or they do not match; nothing was changed. Or a part
            could not be replaced, or its counts stayed unequal; parts before it are done.
    """
    if rows_per_part < 1 or (start is not None and end is not None and start >= end):
        raise ValueError(f"nothing to expand: {rows_per_part} rows a part, [{start}, {end})")
    began = time.monotonic()
    columns = _checked_columns(adx, table)
    key = key_of(table, columns)
    whole = None if start is None and end is None else Part(start, end)
    try:
        (row,) = adx.query(present())
        since = parse_instant(str(row["Now"])) - ARRIVING
        bins = list(_counted(adx, table, whole, rows_per_part, since=since))
    except AdxError as error:
        raise BackfillError(f"{table.name}: its rows could not be counted: {error} Nothing was changed.") from error
    parts = packed(bins, rows_per_part)
    _refuse_surplus(table, bins, allowed=delete_surplus)
    name = typed_table_name(table)
    tell(f"{name}: {sum(one.raw for one in bins)} raw rows and {sum(one.typed for one in bins)} typed ones")
    if slow := sum(part.ingested is None for part in parts):
        tell(f"{name}: {slow} of {len(parts)} parts read the whole raw table: rows of theirs have no ingestion time")
    rows = _all_replaced(adx, table, parts, key, tell)
    passed = _passed_over(adx, table, whole, rows_per_part) if any(part.ingested for part in parts) else []
    again = packed(passed, rows_per_part)
    if again:
        tell(
            f"{name}: {len(again)} parts once more: raw rows came to them with an ingestion time from before the count"
        )
        rows += _all_replaced(adx, table, again, key, tell) - sum(one.typed for one in passed)
    return Backfilled(rows, len(parts) + len(again), time.monotonic() - began)


def _checked_columns(adx: BackfillClient, table: DefenderTable) -> tuple[Column, ...]:
    """The columns of the typed table, when the function that fills it has the same and a policy calls it.

    Raises:
        BackfillError: else.
    """
    name, function = typed_table_name(table), expand_name(table)
    columns = _columns(adx, name, "Make the typed tables first: `defender-adx bootstrap`")
    expanded = _columns(adx, function, "Make the function first: `defender-adx schema apply`")
    if columns != expanded:
        differ = [f"{one.name} ({one.type})" for one in (*columns, *expanded) if (one in columns) != (one in expanded)]
        said = f"only one of them has {', '.join(differ)}" if differ else "their columns stand in another order"
        raise BackfillError(
            f"{name} and {function}(), which fills it, do not have the same columns: {said}. Nothing was changed. Run"
            " `defender-adx schema apply` first, then this again."
        )
    if Column(time_of(table), "datetime") not in columns:
        raise BackfillError(
            f"{name} has no column {time_of(table)} of type datetime to cut it by. Nothing was changed."
        )
    if not _is_filled(adx, table):
        raise BackfillError(
            f"{name} is filled by no update policy over {table.raw_table}: what is loaded from now on would be"
            " missing from it again. Nothing was changed. Make the policy first: `defender-adx bootstrap`."
        )
    return columns


def _columns(adx: BackfillClient, name: str, advice: str) -> tuple[Column, ...]:
    try:
        found = adx.query(table_columns(name))
    except MissingObjectError as error:
        raise BackfillError(
            f"{name} is not there: {error} Nothing was changed. {advice}, then run this again."
        ) from error
    except AdxError as error:
        raise BackfillError(f"The columns of {name} could not be read: {error} Nothing was changed.") from error
    return tuple(Column(str(row["ColumnName"]), str(row["ColumnType"])) for row in found)


def _is_filled(adx: BackfillClient, table: DefenderTable) -> bool:
    try:
        (row,) = adx.command(update_policies(table), idempotent=True)
        policies = orjson.loads(row["Policy"] or "null") or []
    except (AdxError, ValueError, LookupError, TypeError) as error:
        raise BackfillError(
            f"The update policy of {typed_table_name(table)} could not be read: {error} Nothing was changed."
        ) from error
    return any(one.get("Source") == table.raw_table and one.get("IsEnabled", True) for one in policies)


def _counted(
    adx: BackfillClient,
    table: DefenderTable,
    within: Part | None,
    most: int,
    *,
    since: datetime | None,
    grain: int = 0,
) -> Iterator[Bin]:
    """The bins that have rows, in order, those without a time last; a bin with more than `most` rows in finer ones.

    Args:
        adx: the database.
        table: the Defender table.
        within: what is counted; None is every row, also without a time.
        most: rows that a bin should have, as far as time goes.
        since: rows that were ingested from here on may not have been there yet; None when no bin may be looked for by
            when its rows were ingested.
        grain: which of `GRAINS`.
    """
    rows = adx.query(time_bins(table, within, GRAINS[grain]), timeout=COUNTING)
    for row in sorted(rows, key=lambda row: row["Bin"] is None):
        if row["Bin"] is None:
            part = Part(timeless=True)
        else:
            bounds = (None, None) if within is None else (within.start, within.end)
            part = bin_part(parse_instant(str(row["Bin"])), GRAINS[grain], *bounds)
        one = Bin(replace(part, ingested=_ingested(row, since)), int(row["RawRows"]), int(row["TypedRows"]))
        if one.rows > most and not part.timeless and grain + 1 < len(GRAINS):
            # Only what this bin's rows were ingested with is read to count them in finer ones.
            yield from _counted(adx, table, one.part, most, since=since, grain=grain + 1)
        else:
            yield one


def _ingested(row: Mapping[str, Any], since: datetime | None) -> Ingested | None:
    if since is None or row["Untimed"]:
        return None
    if row["First"] is None:  # no raw rows
        return Ingested(since, since, since)
    return Ingested(parse_instant(str(row["First"])), parse_instant(str(row["Last"])), since)


def _passed_over(adx: BackfillClient, table: DefenderTable, within: Part | None, most: int) -> list[Bin]:
    """Bins that have fewer typed rows than raw ones after all parts were replaced, counted over the whole raw table.

    More typed rows than raw ones are none that a part made: then raw records went by retention in the meantime.
    """
    try:
        days = _counted(adx, table, within, sys.maxsize, since=None)
        short = [one.part for one in days if one.raw > one.typed]
        return [one for part in short for one in _counted(adx, table, part, most, since=None)]
    except AdxError as error:
        raise BackfillError(
            f"{typed_table_name(table)}: all parts are done, but whether raw rows with an older ingestion time came in"
            f" the meantime could not be seen: {error} Run it again when extents were moved into {table.raw_table}."
        ) from error


def _refuse_surplus(table: DefenderTable, bins: Sequence[Bin], *, allowed: bool) -> None:
    surplus = [one for one in bins if one.typed > one.raw]
    if allowed or not surplus:
        return
    name = typed_table_name(table)
    rows = sum(one.typed - one.raw for one in surplus)
    raise BackfillError(
        f"{name} has {rows} rows more than {table.raw_table}, the first of them in {surplus[0].part}"
        f" ({surplus[0].typed} typed, {surplus[0].raw} raw): their raw records are gone, as by retention, or something"
        " else wrote into the typed table. Expanding anew would delete them, so nothing was changed. Leave these times"
        " out with --from and --to, or say --delete-surplus when they may go."
    )


def _all_replaced(
    adx: BackfillClient,
    table: DefenderTable,
    parts: Sequence[Part],
    key: Sequence[str],
    tell: Callable[[str], object],
) -> int:
    """Replace parts one by one; the number of their rows."""
    rows = 0
    for number, part in enumerate(parts, 1):
        done = _replaced(adx, table, part, key, tell)
        rows += done
        tell(f"{typed_table_name(table)}: part {number} of {len(parts)}, {part}: {done} rows")
    return rows


def _replaced(
    adx: BackfillClient, table: DefenderTable, part: Part, key: Sequence[str], tell: Callable[[str], object]
) -> int:
    """Replace one part until its typed rows are its raw ones; their number.

    Raises:
        BackfillError: the command failed, or the rows stay others.
    """
    name = typed_table_name(table)
    raw = typed = 0
    for attempt in range(1, TRIES + 1):
        try:
            # Not repeated when nobody knows whether it runs: two at once over the same rows would add them twice.
            adx.command(expand_anew(table, part, key), idempotent=False)
            (counts,) = adx.query(part_counts(table, part, key), timeout=COUNTING)
        except AdxError as error:
            raise BackfillError(_failed(table, part, error)) from error
        raw, typed = int(counts["RawRows"]), int(counts["TypedRows"])
        if raw == typed and counts["RawKeys"] == counts["TypedKeys"]:
            return raw
        tell(f"{name} {part}: {raw} raw rows, {typed} typed ones, after try {attempt} of {TRIES}: a load came between")
    same = " (as many, but not the same ones)" if raw == typed else ""
    raise BackfillError(
        f"{name} {part}: {raw} raw rows and {typed} typed ones{same}, also after it was replaced {TRIES} times. The raw"
        " records are all there; the typed rows of this part are not what the function makes of them. Parts before it"
        f" are done. Look whether loads of {table.name} or another backfill write into it all the time, wait for their"
        f" end, and run it again{_from(part)}. When it stays so, see whether {expand_name(table)}() drops or repeats"
        " rows, and whether a row level security policy hides some."
    )


def _failed(table: DefenderTable, part: Part, error: AdxError) -> str:
    said = f"{typed_table_name(table)} {part}: it could not be expanded anew: {error}"
    if isinstance(error, AdxPermissionError):
        return (
            f"{said} Replacing rows takes the role Table Admin of {typed_table_name(table)}. Nothing of it was changed."
        )
    if isinstance(error, AdxUnreachableError) and not error.never_ran:
        return (
            f"{said} The part has its old rows or its new ones, never some of both; which is not known, and the command"
            " may still be running. Parts before it are done. Wait until it has ended, after 10 minutes at the latest,"
            f" then run it again{_from(part)}."
        )
    return f"{said} The part is as it was, parts before it are done. Then run it again{_from(part)}."


def _from(part: Part) -> str:
    if part.start is None:
        return ""
    return f" with --from {part.start.isoformat().replace('+00:00', 'Z')}"
