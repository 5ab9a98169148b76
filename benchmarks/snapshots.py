"""Calls, scans and time of a snapshot of a large table, beside row_number() paging: `python benchmarks/snapshots.py`.

A local tenant gets 1,000,000 rows of ExposureGraphNodes. The engine takes them as a snapshot, in a process of its own,
over real sockets; then the reference in `older_flow` reads the same table by `row_number()` chunks. The tenant counts
how often each row was given out. Nothing is asserted: the figures are printed, and the last line is JSON.

Hunting quota windows run 1,000 times faster than real ones: what is measured is the work, not the wait for calls.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.memory import measure
from benchmarks.older_flow import OlderFlow
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.local.data.snapshots import add_state
from defender_adx_pipeline.local.ingest_endpoint import READY
from defender_adx_pipeline.local.source import quoted
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline.migration.sizes import ANSWER_BYTES

TABLE, KEY = "ExposureGraphNodes", "NodeId"
RAW, OLDER_RAW = f"{TABLE}Raw", f"{TABLE}OlderRaw"
ORDER = "NodeLabel"
"""What the reference pages by: like the columns that such scripts sort by, it is shared by many rows."""
ROWS = 1_000_000
CHUNKS_AT_ONCE = 2
"""Of the reference; the scripts had eight, each of which sorts the whole table: one machine has not the memory."""

_CAP = 99_999
"""Rows of an answer that is surely whole: one with 100,000 may have been cut."""
_DRAIN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What one way to read the table came to."""

    calls: int
    """Hunting calls of any kind."""
    pages: int
    """Answers with rows."""
    given_out: int
    """Rows in them."""
    most: int
    """How often the row was given out that was given out most often."""
    repeated: int
    missing: int
    """Rows that ADX has not, by their key."""
    doubled: int
    """Rows that ADX has more than once, each further one counted."""
    seconds: float
    """Until all of it was loaded."""
    hunting_seconds: float
    """In which the tenant worked on hunting queries."""


def main(arguments: "list[str] | None" = None) -> int:
    """Measure both; 0 when the snapshot is published with every row once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="default %(default)s")
    chosen = parser.parse_args(arguments)
    with _opened() as (tenant, database):
        began = time.monotonic()
        add_state(tenant.source, TABLE, chosen.rows)
        say(f"{chosen.rows:,} rows of {TABLE} made in {time.monotonic() - began:.0f} s")
        facts = _ours(tenant, database, chosen.rows)
        older = _measured(tenant, OLDER_RAW, chosen.rows, lambda: _older(tenant, database))
        say(f"row_number(): {older}")
    facts["reference"] = asdict(older)
    facts["times_as_long"] = round(older.seconds / facts["seconds"], 2)
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    return 0 if (facts["published"], facts["missing"], facts["doubled"]) == (chosen.rows, 0, 0) else 1


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _ours(tenant: LocalTenant, database: Database, rows: int) -> dict[str, Any]:
    """The engine's snapshot."""
    seen: dict[str, float] = {}
    command = [sys.executable, "-m", "defender_adx_pipeline.cli", "sync", TABLE]

    def take() -> None:
        watch, _ = measure(command, {})
        seen["peak_mb"] = round(max(watch.peaks.values()), 1)

    taken = _measured(tenant, RAW, rows, take)
    say(f"snapshot: {taken}, {seen}")
    adx = database.adx
    (published,) = adx.query(f"VwPublishedSnapshots | where SourceTable == '{TABLE}' | project QueryableRows")
    (ledger,) = adx.query("MigrationLedger | where State == 'Published' | project Bytes, ReceivedRows, Buckets")
    (served,) = adx.query(f"Vw{TABLE}Latest() | summarize Rows = count(), Keys = dcount({KEY}, 4)")
    bytes_per_row = ledger["Bytes"] / ledger["ReceivedRows"]
    fitting = min(_CAP, math.floor(ANSWER_BYTES / bytes_per_row))
    return {
        "rows": rows,
        "bytes_per_row": round(bytes_per_row, 1),
        "rows_that_fit": fitting,
        "buckets": ledger["Buckets"],
        "allowed": round(1.15 * math.ceil(rows / fitting) + 3, 2),
        "published": published["QueryableRows"],
        "served": served["Rows"],
        **asdict(taken),
        **seen,
    }


def _older(tenant: LocalTenant, database: Database) -> None:
    """The reference; its rows go into a table of their own."""
    database.adx.command(f".create-merge table {OLDER_RAW} (Records: dynamic)", idempotent=True)
    mapping = '[{"column":"Records","path":"$"}]'
    command = f".create-or-alter table {OLDER_RAW} ingestion json mapping 'DynamicJsonMap' '{mapping}'"
    database.adx.command(command, idempotent=True)
    with OlderFlow(tenant.environment(), scale=1, sleep=time.sleep) as flow:
        flow.snapshot(TABLE, OLDER_RAW, ORDER, at_once=CHUNKS_AT_ONCE)


def _measured(tenant: LocalTenant, raw: str, rows: int, take: Callable[[], None]) -> Taken:
    """Read the table in one way, and count."""
    tenant.source.scans.start()
    mark, began = tenant.log.last_number(), time.monotonic()
    take()
    deadline = time.monotonic() + _DRAIN_SECONDS
    while any(map(tenant.storage.message_count, READY)) and time.monotonic() < deadline:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    calls = tenant.log.entries(service="hunting", since=mark)
    scanned = tenant.source.scans.report()[TABLE]
    tenant.source.scans.stop()
    cursor = tenant.adx.cursor()
    found = cursor.execute(f"SELECT count(*), count(DISTINCT Records->>'{KEY}') FROM adx.data.{quoted(raw)}").fetchone()
    there, distinct = found or (0, 0)
    return Taken(
        calls=len(calls),
        pages=scanned.calls,
        given_out=scanned.rows,
        most=scanned.most,
        repeated=scanned.repeated,
        missing=rows - distinct,
        doubled=there - distinct,
        seconds=round(seconds, 1),
        hunting_seconds=round(sum(entry.seconds for entry in calls), 1),
    )


@contextmanager
def _opened() -> Iterator[tuple[LocalTenant, Database]]:
    """A tenant without rows, its settings in the environment, and its database."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snapshots-", ignore_cleanup_errors=True)))
        tenant = stack.enter_context(LocalTenant(home, scale=0, quota_clock_scale=1000.0, batching_delay=0.05))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        variables: Mapping[str, str] = tenant.environment()
        for name, value in variables.items():
            patch.setenv(name, value)
        database = stack.enter_context(open_database())
        settings = database.settings
        bootstrap(
            database.adx,
            client_id=settings.azure_client_id,
            tenant_id=settings.azure_tenant_id,
            tables=(database.catalogue[TABLE],),
        )
        yield tenant, database


if __name__ == "__main__":
    sys.exit(main())
