"""Ten days with all schedules and sensors on, under a clock that runs fast: `make days`.

A local tenant, a code server, Dagster's daemon and the runs that its queue starts are real processes. Rows arrive in
event tables of different rhythm all through the days, the state of snapshot tables moves, and some things go wrong: the
daemon is killed and is away for three hours, Defender answers errors for two, a run is killed, a table is switched off
and on again. Afterwards every row has to be there once, every day of every table be covered, every day have one
snapshot, no two steps have worked on one table at a time, and every attempt have its audit row.

Requests and processes take as long as they take, so that a run of ten seconds takes more than an hour of these days.
The clock waits where the scheduler would miss a tick, and where a run takes six hours.
"""

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import orjson
import pytest

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.state_kql import CONFIGURATION
from defender_adx_pipeline.defs.abandoned import UNFINISHED, Worker
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline_tests.days_clock import Clock, ClockError, start_again, started
from defender_adx_pipeline_tests.days_data import BEFORE, EVENTS, SNAPSHOTS, SWITCHED, fill, move_states
from defender_adx_pipeline_tests.days_judging import Judge, longest
from defender_adx_pipeline_tests.days_outcome import Course, Outcome
from defender_adx_pipeline_tests.days_processes import Processes, Ticks, dagster_home

DAYS = 10.0
RATE = 480.0
"""Simulated seconds in a real one: ten days take half an hour."""

AFTER = timedelta(hours=4)
"""From the last row on: the sweep at 03:40 finds what came later than the overlap of a tick."""

CALM = timedelta(hours=3)
"""From the last row on: the clock runs slower then. A table whose runs take hours would be left out of the sweep."""

CALM_RATE = 90.0

BEHIND = timedelta(minutes=25)
"""How old the newest tick may be: of several that are due, Dagster evaluates the last one alone."""

SLOW = timedelta(hours=6)
"""How old a run may be that has not ended: on a machine that is busy otherwise, a day would be over by then."""

HELD_RATE = 20.0
"""While the clock waits. Not slower: the daemon's loops have their intervals by it."""

END_SECONDS = 600.0
_LOOK_SECONDS = 0.2
MEMORY = Path("/dev/shm")
"""Where files lie in memory: Dagster's SQLite waits for the disk at every event."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happens at an instant of the simulation."""

    at: datetime
    what: str
    do: Callable[[], None]


class Days:
    """The simulation.

    Args:
        clock: by which this process and all others run.
        tenant: started, in this process.
        database: bootstrapped.
        instance: of the daemon.
        processes: not started yet.
        days: how many.
        rate: of the clock.
        seed: of rows.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        tenant: LocalTenant,
        database: Database,
        instance: dg.DagsterInstance,
        processes: Processes,
        days: float,
        rate: float,
        seed: int,
    ) -> None:
        begin = clock.now()
        midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0)
        self.course = Course(begin, midnight + timedelta(days=days))
        self.outcome = Outcome(days=days)
        self._clock, self._rate, self._seed = clock, rate, seed
        self._tenant, self._database, self._instance, self._processes = tenant, database, instance, processes
        self._judge = Judge(tenant, database, instance, self.course, self.outcome)
        self._ticks = Ticks(instance, "event_tables_tick")
        self._daemon_is_up = True
        self._up_since = begin
        self._wants_to_kill = False
        self._paced = time.monotonic()

    def play(self) -> None:
        """All of it, and the verdict."""
        began = time.monotonic()
        fill(self._tenant.source, self.course.begin, self.course.end, self._seed)
        self._processes.start()
        self._up_since = self._clock.now()
        coming = sorted(self._happenings(), key=lambda one: one.at)
        looked = 0.0
        while self._clock.now() < self.course.end + AFTER:
            self._pace(self._rate if self._clock.now() < self.course.end + CALM else CALM_RATE)
            while coming and coming[0].at <= self._clock.now():
                self._happen(coming.pop(0))
            if self._wants_to_kill:
                self._kill_a_run()
            if time.monotonic() - looked > 10.0:
                looked = time.monotonic()
                self._look()
            time.sleep(_LOOK_SECONDS)
        self._end()
        self._clock.run(1.0)
        self.outcome.hunting_calls = self._tenant.log.counts().get("hunting", 0)
        self._judge.judge(self._clock.now())
        self.outcome.held_minutes = round(self.outcome.held_minutes, 1)
        self.outcome.real_minutes = round((time.monotonic() - began) / 60, 1)

    def _happenings(self) -> Iterator[Happening]:
        begin, end = self.course.begin, self.course.end
        length = end - begin
        # An hour or two on a short day, too.
        brief = min(1.0, length / timedelta(days=2))
        yield Happening(begin + 0.22 * length, "the daemon is killed", self._kill_daemon)
        away = 3 * brief * timedelta(hours=1)
        yield Happening(begin + 0.22 * length + away, "the daemon is started again", self._start_daemon)
        yield Happening(begin + 0.4 * length, "Defender answers errors", self._break_defender)
        ill = 2 * brief * timedelta(hours=1)
        yield Happening(begin + 0.4 * length + ill, "Defender answers again", self._mend_defender)
        off = begin + 0.6 * length
        yield Happening(off, f"{SWITCHED} is switched off", lambda: self._switch(on=False))
        on = off + min(timedelta(days=1), length / 5)
        yield Happening(on, f"{SWITCHED} is switched on", lambda: self._switch(on=True))
        yield Happening(begin + 0.45 * length, "a run is to be killed", self._want_to_kill)
        moment = begin + timedelta(hours=7)
        # The last snapshot has to be the state at the end.
        while moment < end - timedelta(days=1):
            yield Happening(moment, "snapshot tables move on", lambda: move_states(self._tenant.source, self._seed))
            moment += timedelta(hours=8)

    def _happen(self, one: Happening) -> None:
        self._say(one.what)
        one.do()

    def _pace(self, rate: float) -> None:
        """Let the clock run, or wait for the scheduler and for runs that take long."""
        held, now = self._is_behind(), time.monotonic()
        if held:
            self.outcome.held_minutes += (now - self._paced) / 60
        self._paced = now
        self._clock.run(min(HELD_RATE, rate) if held else rate)

    def _is_behind(self) -> bool:
        if not self._daemon_is_up:
            return False
        now = self._clock.now()
        if now - (self._ticks.newest() or self._up_since) > BEHIND:
            return True
        unfinished = self._instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED))
        return any(now - record.create_timestamp > SLOW for record in unfinished)

    def _kill_daemon(self) -> None:
        self._processes.kill_daemon()
        self._daemon_is_up = False
        self.course.daemon_down.append((self._clock.now(), self._clock.now()))

    def _start_daemon(self) -> None:
        self._processes.start_daemon()
        self._daemon_is_up = True
        self.course.daemon_down[-1] = (self.course.daemon_down[-1][0], self._clock.now())

    def _break_defender(self) -> None:
        self._tenant.faults.add("hunting", "unavailable", times=None)
        self.course.outages.append((self._clock.now(), self.course.end + timedelta(days=9)))

    def _mend_defender(self) -> None:
        self._tenant.faults.clear()
        self.course.outages[-1] = (self.course.outages[-1][0], self._clock.now())

    def _switch(self, *, on: bool) -> None:
        state = self._database.state
        (row,) = [row for row in state.configuration_rows() if row["SourceTable"] == SWITCHED]
        state._append(CONFIGURATION, [{**row, "IsActive": on}])

    def _want_to_kill(self) -> None:
        self._wants_to_kill = True

    def _kill_a_run(self) -> None:
        """`kill -9` of the process of a run that has begun to work, as soon as there is one."""
        filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        for run in self._instance.get_runs(filters=filters):
            worker = Worker.of(run)
            if worker is not None and not worker.is_gone():
                self.course.killed[run.run_id] = self._clock.now()
                os.kill(worker.pid, signal.SIGKILL)
                self._wants_to_kill = False
                self._say(f"run {run.run_id} is killed")
                return

    def _look(self) -> None:
        """The lag of all tables, and whether the processes are there."""
        ended = self._processes.ended()
        if ended:
            raise RuntimeError(f"{ended} has ended by itself: {self._processes.said('daemon')}")
        try:
            lags = self._judge.lags(self._clock.now())
        except AdxError as error:
            self.outcome.blame(f"the lag cannot be read: {error}")
            return
        self.outcome.longest_lag_minutes = longest(self.outcome.longest_lag_minutes, lags)
        runs = self._instance.get_runs_count()
        shown = {table: f"{lag / timedelta(hours=1):.1f} h" for table, lag in lags.items()}
        self._say(f"{runs} runs; behind: {shown}")

    def _end(self) -> None:
        """Until all runs have ended and two more ticks have been evaluated after the last of them."""
        deadline, calm_since = time.monotonic() + END_SECONDS, self._clock.now()
        self._say("the days are over; waiting for the last runs")
        while time.monotonic() < deadline:
            self._pace(CALM_RATE)
            if self._instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)):
                calm_since = self._clock.now()
            if (self._ticks.newest() or calm_since) > calm_since + timedelta(minutes=15):
                return
            time.sleep(_LOOK_SECONDS)
        self.outcome.blame(f"runs do not end: {self._instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED))}")

    def _say(self, line: str) -> None:
        sys.stderr.write(f"{self._clock.now():%Y-%m-%d %H:%M} {line}\n")
        sys.stderr.flush()


def simulate(clock: Clock, home: Path, days: float, rate: float, seed: int) -> Outcome:
    """Play the days in a folder."""
    with ExitStack() as stack:
        tenant = stack.enter_context(LocalTenant(home, seed=seed, scale=0, quota_clock_scale=rate))
        # A token has its hour in real time.
        tenant.issuer.expires_in = round(tenant.issuer.expires_in * rate)
        first_day = (clock.now() - 2 * BEFORE).date().isoformat()
        variables = {**tenant.environment(), **dagster_home(home, first_day, rate)}
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in variables.items():
            patch.setenv(name, value)
        database = stack.enter_context(open_database())
        bootstrap(
            database.adx,
            client_id=database.settings.azure_client_id,
            tenant_id=database.settings.azure_tenant_id,
            tables=tuple(database.catalogue[name] for name in (*EVENTS, *SNAPSHOTS)),
        )
        processes = Processes(home, variables, rate)
        stack.callback(processes.stop)
        simulation = Days(
            clock=clock,
            tenant=tenant,
            database=database,
            instance=stack.enter_context(dg.DagsterInstance.get()),
            processes=processes,
            days=days,
            rate=rate,
            seed=seed,
        )
        simulation.play()
        return simulation.outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when every row, day and attempt is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--days", type=float, default=DAYS)
    parser.add_argument("--rate", type=float, default=RATE, help="simulated seconds in a real one")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--home", type=Path, help="keep everything in this folder; a temporary one otherwise")
    chosen = parser.parse_args(arguments)
    clock = started()
    if clock is None:
        home = chosen.home or Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None, prefix="days-"))
        home.mkdir(parents=True, exist_ok=True)
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        begin = today - timedelta(days=math.ceil(chosen.days))
        command = [sys.executable, "-m", "defender_adx_pipeline_tests.days", "--home", str(home)]
        own = ["--days", str(chosen.days), "--rate", str(chosen.rate), "--seed", str(chosen.seed)]
        if chosen.home is None:
            os.environ["DEFENDER_ADX_TEMPORARY"] = "1"
        try:
            start_again([*command, *own], home, begin)
        except ClockError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    try:
        outcome = simulate(clock, chosen.home, chosen.days, chosen.rate, chosen.seed)
    finally:
        if "DEFENDER_ADX_TEMPORARY" in os.environ:
            shutil.rmtree(chosen.home, ignore_errors=True)
    for reason in outcome.reasons:
        sys.stderr.write(f"{reason}\n")
    sys.stdout.write(orjson.dumps(outcome.facts()).decode() + "\n")
    return 0 if outcome.exact else 1


if __name__ == "__main__":
    sys.exit(main())
