"""Peak memory of a step that loads one large table, and how fast it does: `python benchmarks/memory.py`.

A local tenant runs as a process of its own with one table of generated rows over 30 days. `defender-adx sync` and then
a Dagster run load all of it, each as processes of its own, into an emptied database; beside each, the same command over
a table without rows says what a step needs that has nothing to load. Peaks are the kernel's own (VmHWM in /proc, so
Linux only), read while the processes live. Nothing is asserted: the figures are printed, and the last line is JSON.

Hunting quota windows run 1,000 times faster than real ones: what is measured is the pipeline, not the wait for calls.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psutil
import requests

from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.state_kql import AUDIT, CONFIGURATION, LEDGER, LEDGER_VIEW
from defender_adx_pipeline.cli import tenancy
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.local.data import add_rows
from defender_adx_pipeline.local.data.generate import NEWEST, OLDEST
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline.migration.scope import readable_since

ROWS = 2_000_000
EMPTY = "AlertInfo"
"""A table without rows: what a step needs that has nothing to load."""

_CHUNK = 250_000
_POLL_SECONDS = 0.02
_MB = 1024 * 1024
_FORKSERVER = "multiprocessing.forkserver"


@dataclass(frozen=True, slots=True)
class Load:
    """One command that loaded the table."""

    command: str
    rows: int
    raw_mb: float
    """JSON before compression."""
    seconds: float
    peak_mb: float
    """Of the process that reads and loads: the step."""
    idle_peak_mb: float
    """Of the same process of the same command when the table has no rows."""
    all_processes_mb: float
    """Sum of the peaks of all processes of the command, pages that they share counted in each."""
    step_cpu_seconds: float
    tenant_cpu_seconds: float
    hunting_calls: int
    hunting_seconds: float
    """In which the tenant worked on hunting queries."""
    ingestion_seconds: float
    """In which the tenant's ingestion worker worked on blobs."""


class Watch:
    """Peaks and processor time of a process and all its descendants, as long as they live."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self.peaks: dict[int, float] = {}
        self.cpu: dict[int, float] = {}
        self.steps: set[int] = set()

    def look(self) -> None:
        """Read what the kernel says now."""
        try:
            family = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                self.peaks[process.pid] = max(peak_mb(process.pid), self.peaks.get(process.pid, 0.0))
                times = process.cpu_times()
                self.cpu[process.pid] = max(times.user + times.system, self.cpu.get(process.pid, 0.0))
                if process.pid not in self.steps and is_step(process):
                    self.steps.add(process.pid)
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                continue  # it has just ended

    def step(self) -> int:
        """The process that did the work: the largest step of Dagster, or the only process."""
        return max(self.steps or self.peaks, key=lambda pid: self.peaks[pid])


def peak_mb(pid: int) -> float:
    """The largest resident size that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0  # it has ended, and nobody has asked for its exit code yet


def is_step(process: psutil.Process) -> bool:
    """Whether it was forked by Dagster's fork server."""
    parent = process.parent()
    return parent is not None and any(_FORKSERVER in part for part in parent.cmdline())


def measure(command: list[str], variables: Mapping[str, str]) -> tuple[Watch, float]:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the message ends with its output.
    """
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=output, stderr=subprocess.STDOUT)
        watch = Watch(process.pid)
        while process.poll() is None:
            watch.look()
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - began
        if process.returncode != 0:
            output.seek(0)
            text = output.read().decode(errors="replace")[-3000:]
            raise RuntimeError(f"{' '.join(command)} failed:\n{text}")
    return watch, seconds


def sync(table: str) -> list[str]:
    """`defender-adx sync` over all that Defender keeps."""
    now = utc_now()
    bounds = [f"{bound:%Y-%m-%dT%H:%M:%S}" for bound in (readable_since(now), now)]
    return [sys.executable, "-m", "defender_adx_pipeline.cli", "sync", table, "--from", bounds[0], "--to", bounds[1]]


def dagster_run(table: str) -> list[str]:
    """A Dagster run over all daily partitions in one step."""
    now = utc_now()
    days = [readable_since(now).date().isoformat(), now.date().isoformat()]
    module = "defender_adx_pipeline.defs.launch"
    return [sys.executable, "-m", module, "--first", days[0], "--last", days[1], f"memory={table}"]


def load(
    name: str, command: Callable[[str], list[str]], table: str, database: Database, variables: Mapping[str, str]
) -> Load:
    """Load the table into an emptied database with a command, and the empty table for comparison."""
    empty_database(database, (table, EMPTY))
    idle, _ = measure(command(EMPTY), variables)
    tenant = psutil.Process(orjson.loads((Path(variables["LOCAL_TENANT_HOME"]) / "tenant.json").read_bytes())["pid"])
    mark, cpu = last_request(variables), tenant.cpu_times()
    operations = len(database.adx.command(".show operations", idempotent=True))
    watch, seconds = measure(command(table), variables)
    cpu_after = tenant.cpu_times()
    hunting = [entry for entry in requests_since(variables, mark) if entry["service"] == "hunting"]
    (loaded,) = database.adx.query(
        f"{LEDGER_VIEW} | where SourceTable == '{table}' and Kind == 'Slice' and State == 'Confirmed'"
        " | summarize Rows = sum(ReceivedRows), Bytes = sum(Bytes)"
    )
    ingested = database.adx.command(".show operations", idempotent=True)[operations:]
    return Load(
        command=name,
        rows=int(loaded["Rows"]),
        raw_mb=loaded["Bytes"] / _MB,
        seconds=seconds,
        peak_mb=watch.peaks[watch.step()],
        idle_peak_mb=idle.peaks[idle.step()],
        all_processes_mb=sum(watch.peaks.values()),
        step_cpu_seconds=watch.cpu[watch.step()],
        tenant_cpu_seconds=cpu_after.user + cpu_after.system - cpu.user - cpu.system,
        hunting_calls=len(hunting),
        hunting_seconds=sum(float(entry["seconds"]) for entry in hunting),
        ingestion_seconds=sum(map(duration, ingested)),
    )


def duration(operation: Mapping[str, Any]) -> float:
    """Seconds that an ingestion took."""
    started, ended = (datetime.fromisoformat(operation[name]) for name in ("StartedOn", "LastUpdatedOn"))
    return (ended - started).total_seconds()


def empty_database(database: Database, tables: tuple[str, ...]) -> None:
    """Forget all rows and all state, and bootstrap the tables."""
    present = {row["TableName"] for row in database.adx.command(".show tables", idempotent=True)}
    for name in (LEDGER, AUDIT, CONFIGURATION, *(f"{table}Raw" for table in tables)):
        if name in present:
            database.adx.command(f".clear table ['{name}'] data", idempotent=True)
    bootstrap(
        database.adx,
        client_id=database.settings.azure_client_id,
        tenant_id=database.settings.azure_tenant_id,
        tables=tuple(database.catalogue[table] for table in tables),
    )


def requests_since(variables: Mapping[str, str], number: int) -> list[dict[str, Any]]:
    """The tenant's request log from a request on."""
    url = f"{variables['LOCAL_TENANT_ADMIN_URL']}/log"
    answer = requests.get(url, params={"since": str(number)}, timeout=60)
    answer.raise_for_status()
    return list(answer.json())


def last_request(variables: Mapping[str, str]) -> int:
    """The number of the newest request in the tenant's log."""
    return max((entry["number"] for entry in requests_since(variables, 0)), default=0)


@contextmanager
def tenant_process(home: Path, table: str, rows: int) -> Iterator[float]:
    """The tenant with its rows, as a process of its own; the seconds that making the rows took."""
    command = [sys.executable, __file__, "--serve", str(home), "--table", table, "--rows", str(rows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise RuntimeError(f"the local tenant ended with {process.wait()}")
        yield float(orjson.loads(line)["seconds"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def serve(home: Path, table: str, rows: int) -> None:
    """Run the tenant in this process until it is told to stop."""
    # Blocked before any thread is there, so that none of them can be ended by the signal in our place.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with LocalTenant(home, scale=0, quota_clock_scale=1000.0) as tenant:
        began, now = time.monotonic(), tenant.clock()
        for first in range(0, rows, _CHUNK):
            add_rows(tenant.source, table, min(_CHUNK, rows - first), now - OLDEST, now - NEWEST, created=now)
        print(orjson.dumps({"seconds": time.monotonic() - began}).decode(), flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


def report(item: Load) -> str:
    """What was measured, for a person."""
    return (
        f"{item.command}: {item.rows:,} rows, {item.raw_mb:,.0f} MB of JSON in {item.seconds:.0f} s:"
        f" {item.rows / item.seconds:,.0f} rows/s, {item.raw_mb / item.seconds:.1f} MB/s,"
        f" {item.hunting_calls} hunting calls\n"
        f"  peak of the step {item.peak_mb:.0f} MB; with nothing to load {item.idle_peak_mb:.0f} MB:"
        f" {item.peak_mb / item.idle_peak_mb:.2f} times as much; all processes {item.all_processes_mb:.0f} MB\n"
        f"  the step computed for {item.step_cpu_seconds:.0f} s, the tenant for {item.tenant_cpu_seconds:.0f} s, on"
        f" {os.cpu_count()} cores; the tenant was busy with hunting for {item.hunting_seconds:.0f} s and with ingestion"
        f" for {item.ingestion_seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--table", default="DeviceProcessEvents")
    parser.add_argument("--serve", type=Path, metavar="HOME", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.table, chosen.rows)
        return
    with tempfile.TemporaryDirectory(prefix="memory-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        with tenant_process(home, chosen.table, chosen.rows) as made:
            print(f"{chosen.rows:,} rows of {chosen.table} made in {made:.0f} s", flush=True)
            variables = {
                **tenancy.environment(home),
                **tenancy.dagster_environment(home),
                "LOCAL_TENANT_HOME": str(home),
            }
            os.environ.update(variables)
            results = []
            with open_database() as database:
                for name, command in (("defender-adx sync", sync), ("Dagster step", dagster_run)):
                    results.append(load(name, command, chosen.table, database, variables))
                    print(report(results[-1]), flush=True)
    print(orjson.dumps({"table": chosen.table, "generation_seconds": made, "loads": [*map(asdict, results)]}).decode())


if __name__ == "__main__":
    main()
