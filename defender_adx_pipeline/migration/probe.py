"""Which tables have something new, asked for all of them at once: one call to Defender, one query to ADX.

A tick comes every quarter of an hour, and most tables are quiet most of the time. A table whose rows are the same on
both sides, in number and in the sum of their times, over the window that its tick would take, needs no run: the window
is written to the ledger as complete, as a run would, and that is all. Every other table gets its run, and so does each
of which anything is unknown: one that the tenant or ADX does not have, or has in another table than its own.

Here: asking, comparing and recording. Not here: which tables are due and since when (`agenda`), and their runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from defender_adx_pipeline.adx import state_kql, typed_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import CallUsage, HuntingClient
from defender_adx_pipeline.defender.errors import QueryContext
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.ledger import ALL_TABLES, RunIdentity, calls_row, window_row
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.migration.windows import Window

LONGEST = timedelta(days=2)
"""Longer windows are not compared here but given to a run: a first load, or a table that fell behind."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """What is in a window on one side."""

    rows: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Due:
    """A table and the window that its tick would take."""

    item: TableConfiguration
    window: Window


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe found."""

    busy: tuple[Due, ...]
    """Tables that need a run."""
    quiet: tuple[Due, ...]
    """Tables whose window is complete without one."""


def probe(
    hunting_client: HuntingClient, adx: AdxClient, state: StateStore, due: Sequence[Due], *, run_id: str, now: datetime
) -> Probed:
    """Tell the tables that need a run from the quiet ones, and record the windows of these.

    Args:
        hunting_client: asked once, when any table can be compared.
        adx: asked for rows, and for slices that are still open.
        state: the ledger.
        due: the tables.
        run_id: what stands as RunId in the ledger rows of quiet tables.
        now: when they were recorded.

    Raises:
        HuntingError: Defender could not be asked; nothing was recorded.
        AdxError: ADX could not be asked or written to.
    """
    still_open = {
        str(row["SourceTable"]) for row in adx.query(state_kql.ledger_summary()) if int(row["OpenSlices"] or 0)
    }
    comparable = [one for one in due if _is_comparable(one, still_open)]
    quiet: dict[str, tuple[Due, int]] = {}
    rows: list[dict[str, Any]] = []
    if comparable:
        before = hunting_client.usage
        source = _contents(_ask_defender(hunting_client, comparable))
        rows.append(shared_calls_row(hunting_client.usage - before, run_id, now))
        asked = [(one.item.table, one.window.start, one.window.end) for one in comparable]
        there = _contents(adx.query(typed_kql.several_windows(asked)))
        for one in comparable:
            name = one.item.table.name
            if name in source and source[name] == there.get(name):
                quiet[name] = (one, source[name].rows)
    rows += [_window_row(one, count, run_id, now) for one, count in quiet.values()]
    if rows:
        state.append_ledger(rows)
    busy = tuple(one for one in due if one.item.table.name not in quiet)
    return Probed(busy=busy, quiet=tuple(one for one, _ in quiet.values()))


def _is_comparable(due: Due, still_open: set[str]) -> bool:
    """Whether equal counts would say that there is nothing to do."""
    table = due.item.table
    return (
        due.item.loaded_before
        and due.item.load_type == "Incr"
        and due.item.destination_table == table.raw_table
        and due.window.length <= LONGEST
        and table.name not in still_open
    )


def _ask_defender(hunting_client: HuntingClient, due: Sequence[Due]) -> list[dict[str, Any]]:
    asked = [(one.item.table.name, one.item.table.time_column or "", one.window.start, one.window.end) for one in due]
    context = QueryContext(purpose=f"count rows of {len(due)} tables", splittable=False)
    return list(hunting_client.run(hunting.several_windows(asked), context=context).take_records())


def _contents(rows: Sequence[Mapping[str, Any]]) -> dict[str, _Contents]:
    """What is in each window; nothing of a table whose rows have no sum of times, so that it gets a run."""
    found: dict[str, _Contents] = {}
    for row in rows:
        count, seconds = int(row["Rows"]), row.get("Seconds")
        # Of no rows it is zero in Kusto, and null elsewhere.
        if seconds is not None or not count:
            found[str(row["SourceTable"])] = _Contents(count, int(seconds or 0))
    return found


def shared_calls_row(used: CallUsage, run_id: str, now: datetime) -> dict[str, Any]:
    """A ledger row for calls that ask for several tables at once."""
    costs = {"Calls": used.calls, "QuotaWaitSeconds": round(used.quota_wait, 3)}
    return calls_row(RunIdentity(run_id, ""), source_table=ALL_TABLES, state="Confirmed", now=now, **costs)


def _window_row(due: Due, rows: int, run_id: str, now: datetime) -> dict[str, Any]:
    return window_row(
        RunIdentity(run_id, ""),
        source_table=due.item.table.name,
        destination_table=due.item.destination_table,
        window=due.window,
        source_rows=rows,
        received_rows=0,
        destination_rows=rows,
        now=now,
    )
