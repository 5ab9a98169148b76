"""Moving everything: a filled tenant into an empty ADX with real Dagster runs, and what came of each table.

Here: the steps that the demo and the demo under chaos share. Not here: comparing (`comparing`), the tenant's process
(`tenancy`) and the runs (`defs.launch`, started as processes of their own).
"""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import IO, Any

import orjson
from rich.console import Console
from rich.table import Column, Table

from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.catalogue import DefenderTable, load_catalogue
from defender_adx_pipeline.cli.comparing import SnapshotResult, TableResult, compare_snapshot, compare_table
from defender_adx_pipeline.cli.comparing_typed import TypedResult, compare_typed
from defender_adx_pipeline.cli.progress import Bars
from defender_adx_pipeline.instants import to_text, utc_now
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.connections import Database
from defender_adx_pipeline.migration.errors import SnapshotNotPublishedError
from defender_adx_pipeline.migration.windows import Window, bin_floor

_STOP_SECONDS = 20.0


@dataclass(slots=True)
class Moved:
    """What the runs of one call of `move` told."""

    attempts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The audit row and metadata of each attempt, by table; a table without one has not been attempted."""
    failures: list[str] = field(default_factory=list)
    """First lines of failed steps."""
    overdue: bool = False
    """Whether the runs did not end in time and were stopped."""

    def failed(self, tables: Collection[str]) -> list[str]:
        """Those of the tables that have no successful attempt."""
        return [name for name in tables if str(self.attempts.get(name, {}).get("Status")) != "Success"]


def prepare_database(database: Database) -> int:
    """Apply the scripts of kql/; how many statements there were."""
    settings = database.settings
    report = bootstrap(
        database.adx,
        client_id=settings.azure_client_id,
        tenant_id=settings.azure_tenant_id,
        tables=tuple(database.catalogue.values()),
        typed=True,
        retention_days=settings.defender_retention_days,
    )
    return len(report.applied)


def move(
    window: Window, home: Path, out: Console, *, tables: Collection[str] | None = None, seconds: float | None = None
) -> Moved:
    """One run for each category of event tables, over all days of the window.

    Args:
        window: its days are the partitions.
        home: the log of the runs goes there.
        out: shows progress.
        tables: event tables to move; None is all.
        seconds: how long all of it may take; None is for ever.
    """
    chosen = [table for table in load_catalogue().events() if tables is None or table.name in tables]
    return _launch(chosen, window.start.date(), window.end.date(), home=home, out=out, seconds=seconds)


def take_snapshots(home: Path, out: Console) -> Moved:
    """One run for each category of snapshot tables, over today's partition. Arguments as for `move`."""
    today = utc_now().date()
    return _launch(load_catalogue().snapshots(), today, today, home=home, out=out, seconds=None)


def _launch(
    tables: Sequence[DefenderTable], first: date, last: date, *, home: Path, out: Console, seconds: float | None
) -> Moved:
    moved = Moved()
    groups = itertools.groupby(sorted(tables, key=lambda table: table.group), key=lambda table: table.group)
    runs = [f"{group}={','.join(table.name for table in members)}" for group, members in groups]
    days = ["--first", first.isoformat(), "--last", last.isoformat()]
    command = [sys.executable, "-m", "defender_adx_pipeline.defs.launch", *days, *runs]
    with (home / "runs.log").open("ab") as log, Bars(out, f"all {tables[0].kind} tables", len(tables)) as bars:
        for line in _lines(command, log, seconds, moved):
            match line["event"]:
                case "run":
                    bars.begin(line["label"], line["tables"])
                case "attempt":
                    moved.attempts[line["TableName"]] = line
                    bars.advance(line["TableName"], int(line["RecordCount"]), str(line["Status"]))
                case "failure":
                    message = f"{line['step']}: {(line['error'].strip() or 'no message').splitlines()[0]}"
                    moved.failures.append(message)
                    bars.failed(message)
    return moved


def results(
    database: Database, admin_url: str, window: Window, attempts: Mapping[str, Mapping[str, Any]]
) -> list[TableResult]:
    """Both sides of every event table of the configuration, row by row."""
    found = []
    for item in read_agenda(database.state, database.catalogue).tables:
        compared = compare_table(database, admin_url, item.table.name, item.destination_table, window)
        found.append(TableResult(**_facts(item, compared, attempts, _typed(database, item, window))))
    return found


def snapshot_results(
    database: Database, admin_url: str, attempts: Mapping[str, Mapping[str, Any]]
) -> list[SnapshotResult]:
    """Every snapshot table of the configuration: what Defender has now, and what is published of today, row by row."""
    found = []
    today = bin_floor(utc_now(), timedelta(days=1))
    for item in read_agenda(database.state, database.catalogue, "snapshot").tables:
        try:
            taken = database.state.published_on(item, Window(today, today + timedelta(days=1)))
        except SnapshotNotPublishedError:
            taken = None
        compared = compare_snapshot(database, admin_url, item.table.name, item.destination_table, taken)
        published = to_text(taken.start) if taken else None
        typed = _typed(database, item, taken) if taken else None
        found.append(SnapshotResult(**_facts(item, compared, attempts, typed), published=published))
    return found


def _typed(database: Database, item: TableConfiguration, window: Window) -> TypedResult | None:
    """The typed table, where the rows of its raw table are what is compared."""
    own = item.destination_table == item.table.raw_table
    return compare_typed(database, item.table, window) if own else None


def _facts(
    item: TableConfiguration,
    compared: tuple[int, int, int, int],
    attempts: Mapping[str, Mapping[str, Any]],
    typed: TypedResult | None,
) -> dict[str, Any]:
    """The fields of a result."""
    source, there, missing, doubled = compared
    attempt = attempts.get(item.table.name, {})
    return {
        "table": item.table.name,
        "destination": item.destination_table,
        "source_rows": source,
        "adx_rows": there,
        "missing": missing,
        "duplicates": doubled,
        "watermark": item.watermark,
        "audit_status": str(attempt.get("Status", "no run")),
        "calls": int(attempt.get("calls", 0)),
        "typed": typed,
    }


def print_results(found: Sequence[TableResult], seconds: float, out: Console) -> None:
    """A line for each table, and the sum."""
    table = Table(
        *(Column("Table", no_wrap=True), "Defender", "ADX", "Typed", "Missing", "Duplicates"),
        *("Values differ in", "Watermark", "Audit", "Calls"),
    )
    for result in found:
        colour = "green" if result.exact else "red"
        typed = result.typed
        numbers = (result.source_rows, result.adx_rows, result.missing, result.duplicates)
        source, there, missing, doubled = (f"{number:,}" for number in numbers)
        table.add_row(
            f"[{colour}]{result.table}[/{colour}]",
            *(source, there, f"{typed.rows:,}" if typed else "", missing, doubled),
            f"{typed.differing:,} of {typed.compared:,}" if typed else "",
            result.watermark,
            result.audit_status,
            str(result.calls),
        )
    out.print(table)
    exact, rows = sum(result.exact for result in found), sum(result.adx_rows for result in found)
    out.print(
        f"{exact} of {len(found)} tables exact, {rows:,} rows in ADX, {seconds:.0f} s. See it in Dagster: make ui"
    )


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables set for this process and its children, and put back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _lines(command: Sequence[str], log: IO[bytes], seconds: float | None, moved: Moved) -> Iterator[dict[str, Any]]:
    """Start a process that makes the runs one after the other, and give its lines as they come."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:  # noqa: S603 - our own command

        def stop() -> None:
            moved.overdue = True
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its steps end with it

        timer = threading.Timer(seconds, stop) if seconds is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith(b"{"):
                    yield orjson.loads(line)
        except BaseException:
            process.terminate()  # or leaving waits for the end of all runs
            raise
        finally:
            if timer is not None:
                timer.cancel()
