"""What the views of a snapshot table serve, and whether that is a state which Defender had, whole.

Here: reading it over the API, as a user does, and the verdict over one run. Not here: the runs (`bench`), the cases
(`cases_snapshots`), and what is judged of every table (`judging`).
"""

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import orjson

from defender_adx_pipeline.adx import snapshot_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.state_kql import LEDGER, LEDGER_VIEW
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME
from defender_adx_pipeline.instants import sort_key
from defender_adx_pipeline.migration.configuration import NOT_LOADED
from defender_adx_pipeline.quoting import kql_string

Content = Counter[tuple[str, bytes]]
"""Rows by their content, as the bench counts them."""
Counting = Callable[[Iterable[dict[str, Any]]], Content]


@dataclass(frozen=True, slots=True)
class Served:
    """What the latest view has of one table."""

    taken_at: str = ""
    """SnapshotTime of the latest published snapshot, with seven digits; empty before the first."""
    rows: Content = field(default_factory=Counter)
    objections: tuple[str, ...] = ()
    """What is wrong with it whatever Defender had: a mixture, or other numbers than the ledger says."""
    drift: str = ""
    """What the ledger says of rows that changed while it was read."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One table around one run."""

    table: str
    before: Served
    after: Served
    states: tuple[Content, ...]
    """What Defender had from when the snapshot may have been begun until the run was over, the last one last."""
    watermark: str
    """Afterwards; empty while another run goes on, which may just have published."""

    @property
    def lower(self) -> Content:
        """Rows that were there all the time: every snapshot of that time has them."""
        return reduce(operator.and_, self.states)

    @property
    def upper(self) -> Content:
        """Rows that were there at some time: a snapshot of that time has no others."""
        return reduce(operator.or_, self.states)

    @property
    def is_new(self) -> bool:
        """Whether another snapshot is served than before."""
        return self.before.taken_at != self.after.taken_at

    def missing(self) -> int:
        """Rows that should be served and are not."""
        return (self.lower - self.after.rows).total()

    def surplus(self) -> int:
        """Rows that are served and that Defender never had, or not so often."""
        return (self.after.rows - self.upper).total()

    def objections(self, *, success: bool) -> Iterator[str]:
        """What is not as it should be after the run."""
        yield from self.after.objections
        if not self.is_new:
            if self.before.rows != self.after.rows:
                yield f"{self.table}: the rows of the snapshot of {self.after.taken_at} are others than before"
            if success:
                yield f"{self.table}: the run succeeds and serves nothing new"
        elif self.after.taken_at < self.before.taken_at:
            yield f"{self.table}: an older snapshot is served than before"
        elif self.missing() or self.surplus():
            yield (
                f"{self.table}: of the snapshot of {self.after.taken_at} {self.missing()} rows are missing and"
                f" {self.surplus()} are too many"
            )
        if success and self.watermark not in ("", self.after.taken_at):
            yield f"{self.table}: the watermark is {self.watermark}, the snapshot served is of {self.after.taken_at}"
        if self.watermark > max(self.after.taken_at, NOT_LOADED):
            yield f"{self.table}: the watermark {self.watermark} is later than the snapshot served"


def read_served(adx: AdxClient, table: str, content: Counting, view: str = "Latest()") -> Served:
    """What a view serves now, over the API.

    Args:
        adx: a client of the database.
        table: a snapshot table.
        content: how rows are counted.
        view: which one: what follows `Vw<table>`.
    """
    published = adx.query(snapshot_kql.published(table))
    records = adx.query(f"Vw{table}{view} | project SnapshotTime, Record = tostring(Records)")
    times = {sort_key(str(row["SnapshotTime"])) for row in records}
    rows = [orjson.loads(row["Record"]) for row in records]
    times |= {sort_key(row[SNAPSHOT_TIME]) for row in rows}
    counted = content(rows)
    if view != "Latest()":
        return Served(max(times, default=""), counted, tuple(_about_times(table, times)))
    if not published:
        return Served(rows=counted, objections=("rows are served although nothing is published",) if rows else ())
    newest, taken_at = published[0], sort_key(str(published[0]["SnapshotTime"]))
    objections = [*_about_times(table, times | {taken_at})]
    ledger = [
        row
        for row in adx.query(f"{LEDGER} | where SourceTable == {kql_string(table)} and Kind == 'Snapshot'")
        if row["State"] == "Published" and sort_key(str(row["WindowStart"])) == taken_at
    ]
    objections += [
        f"{table}: {len(rows)} rows are served, and {name} of the ledger says otherwise"
        for name in ("ReceivedRows", "QueryableRows")
        if {row[name] for row in ledger} != {len(rows)}
    ]
    if newest["QueryableRows"] != len(rows):
        objections.append(f"{table}: {len(rows)} rows are served, {newest['QueryableRows']} were published")
    drift = next((str(row["Reason"]) for row in ledger if row["Reason"]), "")
    return Served(taken_at, counted, tuple(objections), drift)


def left_open(adx: AdxClient) -> Iterator[str]:
    """Snapshots and slices that the ledger has neither finished nor given up."""
    for row in adx.query(f"{LEDGER_VIEW} | where Kind == 'Snapshot' and State == 'Planned'"):
        yield f"the snapshot of {row['SourceTable']} of {row['WindowStart']} stays open in the ledger"
    slices = adx.query(f"{LEDGER_VIEW} | where Kind == 'Slice' and State in ('Planned', 'Queued')")
    if slices:
        yield f"{len(slices)} slices stay open in the ledger"


def _about_times(table: str, times: set[str]) -> Iterator[str]:
    if len(times) > 1:
        yield f"{table}: a mixture of the snapshots of {', '.join(sorted(times))} is served"
