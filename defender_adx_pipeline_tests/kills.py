"""`kill -9` of a loading run at random points, then run again: 0 missing, 0 duplicates. `make kills`.

One local tenant stays up. For each point the database is emptied, a run over 30 days of several tables is started as a
process group of its own, and killed: at the n-th request of a kind (before the tenant does the work, while it does it,
after it with the reply lost), or after a random time; the whole group, or the run's own process alone. Then: no
watermark may be past a hole; a second run must end, after which both sides hold the same rows; a third must load none.

The points come from the seed. The numbers of requests to choose from are those of a first run that nobody kills.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.state_kql import AUDIT, CONFIGURATION, LEDGER, LEDGER_VIEW
from defender_adx_pipeline.cli import tenancy
from defender_adx_pipeline.cli.comparing import compare_table
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.local.ingest_endpoint import READY
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.kill_points import BY_NAME, IN_FLIGHT, MOMENTS, POSITIONS, Point, draw

TABLES = ("DeviceLogonEvents", "DeviceInfo", "EmailEvents")
SLICE_ROWS = 100
"""So few that the tables need dozens of slices."""

RUN_SECONDS = 240.0
MIDDLE_SHARE = 0.75
"""Of the kills, those that have to hit a run that is not over; else the points prove little."""


@dataclass(slots=True)
class Outcome:
    """What is wrong after the kills; every number has to stay 0 but for the first two."""

    cases: int = 0
    middle: int = 0
    """Kills that hit a run before all its tables were done."""
    missing: int = 0
    duplicates: int = 0
    watermark_past_hole: int = 0
    """Rows of Defender before a watermark that ADX did not have after the kill."""
    unexplained: int = 0
    """Runs that hang or fail, audit rows too few or too many, rows that a third run still loads, slices left open."""
    reasons: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        wrong = (self.missing, self.duplicates, self.watermark_past_hole, self.unexplained)
        return not any(wrong) and self.middle >= MIDDLE_SHARE * self.cases

    def blame(self, reason: str) -> None:
        """Count something that should not be."""
        self.unexplained += 1
        self.reasons.append(reason)


Command = Callable[[Sequence[str], Window], list[str]]


def dagster_run(tables: Sequence[str], window: Window) -> list[str]:
    """One Dagster run over all days."""
    first, last = window.start.date().isoformat(), window.end.date().isoformat()
    module = "defender_adx_pipeline.defs.launch"
    return [sys.executable, "-m", module, "--first", first, "--last", last, f"kills={','.join(tables)}"]


def plain_sync(tables: Sequence[str], window: Window) -> list[str]:
    """The same of one table without Dagster, which starts sooner."""
    (table,) = tables
    bounds = [f"{bound:%Y-%m-%dT%H:%M:%S}" for bound in (window.start, window.end)]
    return [sys.executable, "-m", "defender_adx_pipeline.cli", "sync", table, "--from", bounds[0], "--to", bounds[1]]


class Kills:
    """Kills runs of some tables of a running tenant, and looks at what they leave behind."""

    def __init__(self, tenant: LocalTenant, tables: Sequence[str], command: Command = dagster_run) -> None:
        self.tenant = tenant
        self.tables = tuple(tables)
        self.outcome = Outcome()
        self._command = command
        now = utc_now()
        self._asked = Window(readable_since(now), now)
        self._variables = {**tenant.environment(), **tenancy.dagster_environment(tenant.home)}
        self._variables["DEFENDER_SLICE_ROWS"] = str(SLICE_ROWS)
        self._log = tenant.home / "runs.log"

    def environment(self) -> Mapping[str, str]:
        """The settings that lead to the tenant."""
        return self._variables

    def uninterrupted(self, database: Database) -> tuple[Counter[str], float]:
        """Requests by moment, and seconds from the first to the last, of a run that nobody kills."""
        self._empty(database, batching_delay=0.2)
        mark = self.tenant.log.last_number()
        self._finish("the run that nobody kills", batching_delay=0.2)
        requests = self.tenant.log.entries(since=mark)
        if self.outcome.reasons or not requests:
            raise RuntimeError(f"a run that nobody kills fails: {self.outcome.reasons}")
        seconds = (requests[-1].started - requests[0].started).total_seconds()
        return Counter({m.name: sum(map(m.is_of, requests)) for m in MOMENTS}), seconds

    def case(self, database: Database, point: Point) -> str:
        """Kill a run at one point, check, run again, check, run again, check; what happened, for a log."""
        outcome, wrong = self.outcome, self.outcome.unexplained
        outcome.cases += 1
        self._empty(database, batching_delay=point.batching_delay)
        if point.held:
            self.tenant.worker.stop()
        killed = self._start_and_kill(point)
        audits = self._audits(database)
        middle = killed and any(len(audits[table]) < 1 for table in self.tables)
        outcome.middle += middle
        hole = self._rows_before_watermarks(database)
        outcome.watermark_past_hole += hole
        there = sum(self.tenant.adx.row_count(f"{table}Raw") for table in self.tables)
        self._finish(f"{point}: the second run", point.batching_delay, held=point.held)
        missing, duplicates = self._compare(database, f"{point}: the second run")
        before = self._watermarks(database)
        self._finish(f"{point}: the third run", point.batching_delay)
        self._check_idle(database, audits, before, str(point))
        again = self._compare(database, f"{point}: the third run")
        outcome.missing += max(missing, again[0])
        outcome.duplicates += max(duplicates, again[1])
        verdict = "ok" if outcome.unexplained == wrong and not any((missing, duplicates, hole)) else "WRONG"
        when = "in the middle" if middle else "after the end"
        return f"{point}: killed {when} with {there} rows in ADX; {missing} missing, {duplicates} doubled: {verdict}"

    def _empty(self, database: Database, *, batching_delay: float) -> None:
        self._drain()
        self.tenant.worker.batching_delay = batching_delay
        for table in (LEDGER, AUDIT, CONFIGURATION, *(f"{table}Raw" for table in self.tables)):
            if table in self.tenant.adx.tables():
                database.adx.command(f".clear table ['{table}'] data", idempotent=True)
        settings = database.settings
        bootstrap(
            database.adx,
            client_id=settings.azure_client_id,
            tenant_id=settings.azure_tenant_id,
            tables=tuple(database.catalogue[table] for table in self.tables),
        )

    def _start_and_kill(self, point: Point) -> bool:
        """Whether the run was still there to be killed."""
        mark = self.tenant.log.last_number()
        moment = point.moment
        if moment is not None:
            fault = {"kind": POSITIONS[point.position], "seconds": IN_FLIGHT if point.position == "during" else 60.0}
            selected = {"service": moment.service, "match": moment.match, "method": moment.method}
            self.tenant.faults.add_json({**fault, **selected, "first": point.number})
        with self._process() as run:
            wait_until(lambda: run.poll() is not None or self._is_reached(point, mark), RUN_SECONDS)
            if moment is None:
                wait_until(lambda: run.poll() is not None, point.seconds)
            alive = run.poll() is None
            self._kill(run, point)
        self.tenant.faults.clear()
        if point.position == "during":
            time.sleep(2 * IN_FLIGHT)  # the request that the tenant still works on is part of what the kill leaves
        return alive

    def _has_queued(self, mark: int) -> bool:
        return any(map(BY_NAME["queue message"].is_of, self.tenant.log.entries(since=mark)))

    def _is_reached(self, point: Point, mark: int) -> bool:
        if point.moment is None:
            return bool(self.tenant.log.entries(since=mark))
        if point.position == "after" and self.tenant.faults.fired():
            return any(request.fault == "lost_reply" for request in self.tenant.log.entries(since=mark))
        return self.tenant.faults.fired() > 0

    def _kill(self, run: "subprocess.Popen[bytes]", point: Point) -> None:
        if point.whole_group:
            os.killpg(run.pid, signal.SIGKILL)
            return
        family = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        run.kill()
        run.wait()
        if not wait_until(lambda: not any(map(is_running, family)), 10.0):
            self.outcome.blame(f"{point}: processes of the run outlive it")

    def _finish(self, what: str, batching_delay: float, *, held: bool = False) -> None:
        """Let a run go to its end, and its blobs, too; with `held`, the worker starts when the run has queued one."""
        mark = self.tenant.log.last_number()
        with self._process() as run:
            if held:
                wait_until(lambda: run.poll() is not None or self._has_queued(mark), RUN_SECONDS)
                self.tenant.worker.start()
            if not wait_until(lambda: run.poll() is not None, RUN_SECONDS + 10 * batching_delay):
                self.outcome.blame(f"{what} hangs")
            elif run.returncode != 0:
                self.outcome.blame(f"{what} failed; the end of its log: {self._log.read_text()[-2000:]}")
        self._drain()

    @contextmanager
    def _process(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A run in a process group of its own, of which nothing is left afterwards."""
        with self._log.open("wb") as log:
            run = subprocess.Popen(
                self._command(self.tables, self._asked),
                env={**os.environ, **self._variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield run
        finally:
            with suppress(ProcessLookupError):  # all of it has ended
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()

    def _drain(self) -> None:
        """Wait until every blob that was queued is loaded or dropped."""
        store = self.tenant.storage
        if not wait_until(lambda: not any(store.message_count(queue) for queue in READY), 120.0):
            self.outcome.blame("the queue of the ingestion worker does not become empty")

    def _audits(self, database: Database) -> dict[str, list[dict[str, Any]]]:
        rows = database.adx.query(f"{AUDIT} | order by Timestamp asc")
        return {table: [row for row in rows if row["TableName"] == table] for table in self.tables}

    def _watermarks(self, database: Database) -> dict[str, str]:
        return {table: database.state.configuration(table).watermark for table in self.tables}

    def _rows_before_watermarks(self, database: Database) -> int:
        lost, url = 0, self.tenant.url("admin")
        for table in self.tables:
            item, start = database.state.configuration(table), readable_since(utc_now())
            if item.loaded_before:
                window = Window(start, item.watermark_instant)
                lost += compare_table(database, url, table, item.destination_table, window)[2]
        return lost

    def _compare(self, database: Database, what: str) -> tuple[int, int]:
        missing = doubled = 0
        now = utc_now()
        window = Window(readable_since(now), now - database.settings.defender_settle)
        for table in self.tables:
            _, there, absent, twice = compare_table(database, self.tenant.url("admin"), table, f"{table}Raw", window)
            missing, doubled = missing + absent, doubled + twice
            if there != self.tenant.adx.row_count(f"{table}Raw"):
                self.outcome.blame(f"{what}: {table}Raw has rows outside of the window")
        return missing, doubled

    def _check_idle(
        self, database: Database, killed: Mapping[str, list[Any]], before: Mapping[str, str], what: str
    ) -> None:
        """The third run has loaded nothing and moved nothing back, and every attempt that ended has one audit row."""
        after, audits = self._watermarks(database), self._audits(database)
        for table in self.tables:
            if after[table] < before[table]:
                self.outcome.blame(f"{what}: the watermark of {table} went back to {after[table]}")
            if len(audits[table]) != len(killed[table]) + 2 or len(killed[table]) > 1:
                statuses = [row["Status"] for row in audits[table]]
                self.outcome.blame(f"{what}: {table} has the audit rows {statuses}, {len(killed[table])} at the kill")
            if audits[table] and audits[table][-1]["RecordCount"]:
                self.outcome.blame(f"{what}: the third run loaded {audits[table][-1]['RecordCount']} rows of {table}")
        left = database.adx.query(f"{LEDGER_VIEW} | where Kind == 'Slice' and State in ('Planned', 'Queued')")
        if left:
            self.outcome.blame(f"{what}: {len(left)} slices stay open in the ledger")


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def is_running(process: psutil.Process) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def settings_in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables set in this process, and put back."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when nothing was lost, doubled or left unexplained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="nothing but the last line on standard output")
    chosen = parser.parse_args(arguments)
    say = sys.stderr if chosen.json else sys.stdout
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True)))
        tenant = stack.enter_context(
            LocalTenant(home, seed=chosen.seed, tables=TABLES, scale=0.3, quota_clock_scale=1000.0)
        )
        kills = Kills(tenant, TABLES)
        stack.enter_context(settings_in_environment(kills.environment()))
        database = stack.enter_context(open_database())
        requests, seconds = kills.uninterrupted(database)
        print(f"a run that nobody kills takes {seconds:.1f} s; its requests: {dict(requests)}", file=say, flush=True)
        points = draw(random.Random(chosen.seed), requests, seconds, chosen.points)
        for number, point in enumerate(points, 1):
            began = time.monotonic()
            told = kills.case(database, point)
            print(f"{number}/{len(points)} {told} ({time.monotonic() - began:.0f} s)", file=say, flush=True)
        outcome = kills.outcome
    print(*outcome.reasons, sep="\n", file=say)
    facts = asdict(outcome)
    del facts["reasons"]
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
