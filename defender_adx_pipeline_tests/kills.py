"""`kill -9` of loading runs at random points, again and again: 0 missing, 0 duplicates. `make kills`.

One local tenant stays up. For each chain of points the database is emptied. Each point kills a Dagster run over 30
days of several tables, or a part of it, or the service's ingestion worker: at the n-th request of a kind (before the
tenant does the work, while it does it, after it with the reply lost), or after a time. After each kill no watermark may
be past a hole. A run that nobody kills ends the chain, after which both sides hold the same rows; one more must load
none; and the audit log must account for every attempt and every row.

The points come from the seed. The numbers of requests to choose from are those of a first run that nobody kills.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import dagster as dg
import orjson
import pytest

from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.state_kql import AUDIT, CONFIGURATION, LEDGER, LEDGER_VIEW
from defender_adx_pipeline.cli import tenancy
from defender_adx_pipeline.cli.comparing import compare_table
from defender_adx_pipeline.defs.abandoned import end_with_run
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.local.ingest_endpoint import READY
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.kill_audits import audit_rows, forget, objections
from defender_adx_pipeline_tests.kill_outcome import Outcome
from defender_adx_pipeline_tests.kill_points import BY_NAME, IN_FLIGHT, MOMENTS, POSITIONS, Point, Target, draw
from defender_adx_pipeline_tests.kill_runs import KillError, kill, running, wait_until

TABLES = ("DeviceLogonEvents", "DeviceInfo", "EmailEvents", "IdentityLogonEvents", "CloudAppEvents")
SCALE = 0.06
SLICE_ROWS = 100
"""So few that the tables need dozens of slices."""

QUICK = 0.05
"""Batching delay where it does not matter."""
RUN_SECONDS = 240.0
POINT_SECONDS = 20.0
"""A run that does not reach its point in this time is killed where it is: with its blobs held, it waits for them."""
JOBS = 2
"""A run waits for much besides a processor."""
MEMORY = Path("/dev/shm")
"""Where files lie in memory: Dagster's SQLite waits for the disk at every event, a kill of a process takes nothing."""

Say = Callable[[str], None]


class Kills:
    """Kills runs of some tables of a running tenant, and looks at what they leave behind."""

    def __init__(
        self,
        *,
        tenant: LocalTenant,
        database: Database,
        instance: dg.DagsterInstance,
        tables: Sequence[str] = TABLES,
        dice: random.Random | None = None,
    ) -> None:
        self.outcome = Outcome()
        self._tenant = tenant
        self._database = database
        self._instance = instance
        self._tables = tuple(tables)
        self._dice = dice or random.Random(0)
        now = utc_now()
        self._asked = Window(readable_since(now), now)
        self._label = "none"
        self._chains = 0
        self._held = False
        self._checked: dict[str, str] = {}
        self._log = tenant.home / "runs.log"

    def uninterrupted(self) -> tuple[Counter[str], float]:
        """Requests by moment, and seconds from the first to the last, of a run that nobody kills."""
        self._begin()
        mark = self._tenant.log.last_number()
        self._finish("the run that nobody kills")
        requests = self._tenant.log.entries(since=mark)
        if self.outcome.reasons or not requests:
            raise RuntimeError(f"a run that nobody kills fails: {self.outcome.reasons}")
        seconds = (requests[-1].started - requests[0].started).total_seconds()
        return Counter({m.name: sum(map(m.is_of, requests)) for m in MOMENTS}), seconds

    def chain(self, points: Sequence[Point]) -> Iterator[str]:
        """Kill one run after the other, check after each, then let two end, and check; a line for each."""
        began = time.monotonic()
        self._begin()
        for point in points:
            yield self._point(point)
        what = f"chain {self._chains}"
        self._finish(f"{what}: the run that ends it")
        missing, doubled = self._compare(what)
        before = self._watermarks()
        attempts = {table: len(audit_rows(self._database, table)) for table in self._tables}
        self._finish(f"{what}: the idle run")
        self._check_idle(before, attempts, what)
        again = self._compare(f"{what}, idle")
        self.outcome.missing += max(missing, again[0])
        self.outcome.duplicates += max(doubled, again[1])
        rows = self._rows_there()
        for objection in objections(self._instance, self._database, self._label, rows):
            self.outcome.blame(f"{what}: {objection}")
        yield (
            f"{what}: {len(points)} kills, {missing} rows missing and {doubled} doubled of {sum(rows.values())},"
            f" {len(self.outcome.reasons)} reasons so far, {time.monotonic() - began:.0f} s"
        )

    def _begin(self) -> None:
        """An empty database, and nothing in Dagster of the chain before."""
        self._drain()
        self._tenant.log.clear()
        forget(self._instance, self._label, self._database, self._tables)
        self._chains += 1
        self._checked = {}
        self._label = f"chain-{self._chains}"
        self._tenant.worker.batching_delay = QUICK
        adx, settings = self._database.adx, self._database.settings
        for table in (LEDGER, AUDIT, CONFIGURATION, *(f"{table}Raw" for table in self._tables)):
            if table in self._tenant.adx.tables():
                adx.command(f".clear table ['{table}'] data", idempotent=True)
        bootstrap(
            adx,
            client_id=settings.azure_client_id,
            tenant_id=settings.azure_tenant_id,
            tables=tuple(self._database.catalogue[table] for table in self._tables),
        )

    def _point(self, point: Point) -> str:
        began, outcome = time.monotonic(), self.outcome
        outcome.cases += 1
        self._tenant.worker.batching_delay = point.batching_delay
        killed = self._start_and_kill(point)
        outcome.middle += killed is not None
        hole = self._rows_before_watermarks()
        outcome.watermark_past_hole += hole
        there = sum(self._rows_there().values())
        when = "in the middle" if killed else "after the end"
        lost = f"; {hole} rows before a watermark are missing" if hole else ""
        return f"{point}: {when}, {there} rows in ADX{lost} ({time.monotonic() - began:.0f} s)"

    def _start_and_kill(self, point: Point) -> Target | None:
        """What was killed; None when the run had ended before."""
        mark, moment = self._tenant.log.last_number(), point.moment
        if moment is not None:
            fault = {"kind": POSITIONS[point.position], "seconds": IN_FLIGHT if point.position == "during" else 60.0}
            selected = {"service": moment.service, "match": moment.match, "method": moment.method}
            self._tenant.faults.add_json({**fault, **selected, "first": point.number})
        with self._process() as run:
            wait_until(lambda: not run.is_alive() or self._tenant.log.last_number() > mark, RUN_SECONDS)
            deadline = time.monotonic() + (POINT_SECONDS if moment else point.seconds)

            def is_there() -> bool:
                return not run.is_alive() or time.monotonic() > deadline or self._is_reached(point, mark)

            self._release_when_queued(mark, is_there)
            if point.held:
                self._hold()
            wait_until(is_there, RUN_SECONDS)
            killed = self._kill(run, point) if run.is_alive() else None
        self._tenant.faults.clear()
        if point.position == "during":
            time.sleep(2 * IN_FLIGHT)  # the request that the tenant still works on is part of what the kill leaves
        return killed

    def _kill(self, run: ForkServerProcess, point: Point) -> Target:
        if point.target == "worker":
            self._tenant.worker.crash(restart_after=self._dice.uniform(0.0, 2.0))
            self._await_end(run, f"{point}: the run")
            return "worker"
        try:
            killed = kill(run, point.target, self._dice)
        except KillError as error:
            self.outcome.blame(f"{point}: {error}")
            return point.target
        if killed == "step":
            self._await_end(run, f"{point}: the run that lost a step", fails=True)
        return killed

    def _is_reached(self, point: Point, mark: int) -> bool:
        if point.moment is None:
            return False
        if point.position == "after" and self._tenant.faults.fired():
            return any(request.fault == "lost_reply" for request in self._tenant.log.entries(since=mark))
        return self._tenant.faults.fired() > 0

    def _hold(self) -> None:
        self._tenant.worker.stop()
        self._held = True

    def _release(self) -> None:
        self._tenant.worker.start()
        self._held = False

    def _release_when_queued(self, mark: int, is_over: Callable[[], bool]) -> None:
        """Where the run before this one left its blobs held: load them when this one has queued one."""
        if not self._held:
            return

        def has_queued() -> bool:
            return any(map(BY_NAME["queue message"].is_of, self._tenant.log.entries(since=mark)))

        wait_until(lambda: is_over() or has_queued(), RUN_SECONDS)
        self._release()

    def _finish(self, what: str) -> None:
        """Let a run go to its end, and its blobs, too."""
        mark = self._tenant.log.last_number()
        with self._process() as run:
            self._release_when_queued(mark, lambda: not run.is_alive())
            self._tenant.worker.batching_delay = QUICK
            self._await_end(run, what)
        self._drain()

    def _await_end(self, run: ForkServerProcess, what: str, *, fails: bool = False) -> None:
        run.join(RUN_SECONDS)
        if run.is_alive():
            self.outcome.blame(f"{what} hangs")
        elif run.exitcode and not fails:
            self.outcome.blame(f"{what} failed; the end of its log: {self._log.read_text()[-2000:]}")

    @contextmanager
    def _process(self) -> Iterator[ForkServerProcess]:
        first, last = self._asked.start.date().isoformat(), self._asked.end.date().isoformat()
        arguments = ["--first", first, "--last", last, f"{self._label}={','.join(self._tables)}"]
        with running(arguments, settings(self._tenant), self._log) as run:
            yield run

    def _drain(self) -> None:
        """Wait until every blob that was queued is loaded or dropped."""
        store = self._tenant.storage
        if not wait_until(lambda: not any(store.message_count(queue) for queue in READY), 120.0):
            self.outcome.blame("the queue of the ingestion worker does not become empty")

    def _rows_there(self) -> Mapping[str, int]:
        return {table: self._tenant.adx.row_count(f"{table}Raw") for table in self._tables}

    def _watermarks(self) -> dict[str, str]:
        return {table: self._database.state.configuration(table).watermark for table in self._tables}

    def _rows_before_watermarks(self) -> int:
        lost, url = 0, self._tenant.url("admin")
        for table in self._tables:
            item, start = self._database.state.configuration(table), readable_since(utc_now())
            # Nothing deletes rows: what was there before a watermark once is there before the same one.
            if item.loaded_before and self._checked.get(table) != item.watermark:
                self._checked[table] = item.watermark
                window = Window(start, item.watermark_instant)
                lost += compare_table(self._database, url, table, item.destination_table, window)[2]
        return lost

    def _compare(self, what: str) -> tuple[int, int]:
        missing = doubled = 0
        now, url = utc_now(), self._tenant.url("admin")
        window = Window(readable_since(now), now - self._database.settings.defender_settle)
        for table, rows in self._rows_there().items():
            _, there, absent, twice = compare_table(self._database, url, table, f"{table}Raw", window)
            missing, doubled = missing + absent, doubled + twice
            if there != rows:
                self.outcome.blame(f"{what}: {table}Raw has rows outside of the window")
        return missing, doubled

    def _check_idle(self, before: Mapping[str, str], attempts: Mapping[str, int], what: str) -> None:
        """The idle run has loaded nothing and moved nothing back, and nothing is left open."""
        after = self._watermarks()
        for table in self._tables:
            if after[table] < before[table]:
                self.outcome.blame(f"{what}: the watermark of {table} went back to {after[table]}")
            new = audit_rows(self._database, table)[attempts[table] :]
            if [(row["Status"], row["RecordCount"]) for row in new] != [("Success", 0)]:
                self.outcome.blame(f"{what}: the idle run left the audit rows {new}")
        left = self._database.adx.query(f"{LEDGER_VIEW} | where Kind == 'Slice' and State in ('Planned', 'Queued')")
        if left:
            self.outcome.blame(f"{what}: {len(left)} slices stay open in the ledger")


def settings(tenant: LocalTenant) -> dict[str, str]:
    """The environment of a run."""
    variables = {**tenant.environment(), **tenancy.dagster_environment(tenant.home)}
    return {**variables, "DEFENDER_SLICE_ROWS": str(SLICE_ROWS)}


@contextmanager
def opened(tenant: LocalTenant, tables: Sequence[str] = TABLES, dice: random.Random | None = None) -> Iterator[Kills]:
    """A harness over a tenant, whose settings are in the environment meanwhile."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in settings(tenant).items():
            patch.setenv(name, value)
        database = stack.enter_context(open_database())
        instance = stack.enter_context(dg.DagsterInstance.get())
        yield Kills(tenant=tenant, database=database, instance=instance, tables=tables, dice=dice)


def run_kills(points: int, seed: int, *, jobs: int = JOBS, say: Say = print) -> Outcome:
    """Kill runs at so many points, on a tenant of its own for each job.

    Args:
        points: kills.
        seed: of the tenants' data and of the points.
        jobs: processes that do so at the same time.
        say: is told a line for each kill and each chain; a function of a module, since the jobs have it, too.
    """
    shares = [len(range(job, points, jobs)) for job in range(jobs)]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_job, share, seed + 1000 * job, say) for job, share in enumerate(shares) if share]
        outcomes = [future.result() for future in running]
    return sum(outcomes, Outcome())


def _job(points: int, seed: int, say: Say) -> Outcome:
    end_with_run()  # here: with the process that started the jobs
    with ExitStack() as stack:
        folder = MEMORY if MEMORY.is_dir() else None
        home = tempfile.TemporaryDirectory(dir=folder, prefix="kills-", ignore_cleanup_errors=True)
        tenant = LocalTenant(
            Path(stack.enter_context(home)), seed=seed, tables=TABLES, scale=SCALE, quota_clock_scale=1000.0
        )
        dice = random.Random(seed)
        kills = stack.enter_context(opened(stack.enter_context(tenant), dice=dice))
        requests, seconds = kills.uninterrupted()
        say(f"a run that nobody kills takes {seconds:.1f} s; its requests: {dict(requests)}")
        number = 0
        for chain in draw(dice, requests, seconds, points):
            for line in kills.chain(chain):
                number += not line.startswith("chain ")
                say(f"{seed}: {number}/{points} {line}")
    return kills.outcome


def tell(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def tell_aside(line: str) -> None:
    """Print to standard error."""
    sys.stderr.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when nothing was lost, doubled or left unexplained."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=JOBS, help="processes, each with a tenant of its own")
    parser.add_argument("--json", action="store_true", help="nothing but the last line on standard output")
    chosen = parser.parse_args(arguments)
    say = tell_aside if chosen.json else tell
    began = time.monotonic()
    outcome = run_kills(chosen.points, chosen.seed, jobs=chosen.jobs, say=say)
    for reason in outcome.reasons:
        say(reason)
    say(f"{outcome.cases} kills in {time.monotonic() - began:.0f} s")
    sys.stdout.write(orjson.dumps(outcome.facts()).decode() + "\n")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
