"""`defender-adx demo --chaos SEED`: the demo while a tenth of all calls goes wrong, exact all the same or not.

Here: the order of the steps, the bound on calls, and what is printed. Not here: what goes wrong (the local tenant's
`chaos`, switched on over its admin app) and the steps themselves (`moving`, `comparing`).

A run that fails loudly has not lost anything: the next tick makes it again. Here that is a further pass over the tables
that failed, while chaos goes on.
"""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import requests
from rich.console import Console
from rich.table import Table

from defender_adx_pipeline.adx.state_kql import AUDIT
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.cli import demo, moving, tenancy
from defender_adx_pipeline.cli.comparing import TableResult
from defender_adx_pipeline.cli.output import console
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.connections import Database
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.quoting import kql_name

SHARE = 0.10
PASSES = 6
CALLS_FACTOR = 1.5
"""Calls of a run under chaos may be so many times those of a quiet one, and one more for every fault of hunting."""
_PASS_SECONDS = 1800.0
"""A pass that takes longer hangs: a quiet one takes two minutes, and no fault holds a call for more than seconds; but
a slice that never comes holds its run for half an hour before it fails."""
_QUIET = "quiet.json"
_DRAIN_SECONDS = 60.0


@dataclass(slots=True)
class Outcome:
    """What a run under chaos came to, in the fields of `demo --chaos SEED --json`."""

    seed: int
    share: float
    results: list[TableResult] = field(default_factory=list)
    fired: dict[str, dict[str, int]] = field(default_factory=dict)
    """Faults by service and name."""
    calls: dict[str, int] = field(default_factory=dict)
    """Calls by service, faulty ones included."""
    quiet_calls: int = 0
    """Hunting calls of the same run when nothing goes wrong."""
    passes: list[int] = field(default_factory=list)
    """Tables of each pass."""
    hung: int = 0
    reasons: list[str] = field(default_factory=list)
    """Why attempts failed."""
    unexplained: list[str] = field(default_factory=list)
    """Failed attempts whose reason does not name the table."""
    audit_differences: dict[str, int] = field(default_factory=dict)
    """Audit rows more (or less, negative) than attempts, by table."""
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        """Faulty calls of all services."""
        return sum(count for kinds in self.fired.values() for count in kinds.values())

    @property
    def hunting_calls(self) -> int:
        """Calls that the tenant's hunting API took."""
        return self.calls.get("hunting", 0)

    @property
    def allowed_calls(self) -> int:
        """The bound on them."""
        return int(CALLS_FACTOR * self.quiet_calls) + sum(self.fired.get("hunting", {}).values())

    @property
    def ok(self) -> bool:
        """Whether every row is there once, nothing hung, every failure is explained, and calls are within the bound."""
        exact = bool(self.results) and all(result.exact for result in self.results)
        told = not self.unexplained and not self.audit_differences
        return exact and told and not self.hung and self.hunting_calls <= self.allowed_calls

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the tables."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "share": self.share,
            "exact": sum(result.exact for result in self.results),
            "missing": sum(result.missing for result in self.results),
            "duplicates": sum(result.duplicates for result in self.results),
            "hung": self.hung,
            "unexplained": self.unexplained,
            "audit_differences": self.audit_differences,
            "calls_quiet": self.quiet_calls,
            "calls_chaos": self.hunting_calls,
            "calls_allowed": self.allowed_calls,
            "passes": self.passes,
            "faults": self.faults,
            "calls": self.calls,
            "fired": self.fired,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class Arena:
    """A tenant whose Defender data stay, and an ADX that is emptied for each run.

    Args:
        database: the ADX side.
        admin_url: the tenant's admin app.
        home: of the tenant and of Dagster.
        out: shows progress.
        tables: event tables that take part.
    """

    database: Database
    admin_url: str
    home: Path
    out: Console
    tables: tuple[str, ...] = field(default_factory=lambda: tuple(table.name for table in load_catalogue().events()))

    def quiet_calls(self) -> int:
        """Hunting calls of a run in which nothing goes wrong, from an earlier run over this home if it was today's.

        Raises:
            TenantStartError: the quiet run was not successful, so there is nothing to measure chaos by.
        """
        known = self.home / _QUIET
        wanted = {"day": utc_now().date().isoformat(), "tables": sorted(self.tables)}
        if known.exists() and (record := orjson.loads(known.read_bytes())) == {**wanted, "calls": record["calls"]}:
            return int(record["calls"])
        self.out.print("A quiet run first, to count its calls")
        window, before = self._begin(), self._counts()
        moved = moving.move(window, self.home, self.out, tables=self.tables, seconds=_PASS_SECONDS)
        if failed := moved.failed(self.tables):
            raise tenancy.TenantStartError(
                f"the quiet run failed for {', '.join(failed)}: {'; '.join(moved.failures) or 'no reason told'}."
                f" Chaos was not begun. See {self.home / 'runs.log'}."
            )
        calls = self._counts()["hunting"] - before.get("hunting", 0)
        known.write_bytes(orjson.dumps({**wanted, "calls": calls}))
        return calls

    def run(
        self, seed: int, *, share: float = SHARE, weights: Mapping[str, Mapping[str, int]] | None = None
    ) -> Outcome:
        """Empty ADX, let calls go wrong, run until all tables are there or the passes are spent, and compare."""
        began, outcome = time.monotonic(), Outcome(seed, share, quiet_calls=self.quiet_calls())
        window, before = self._begin(), self._counts()
        requests.delete(f"{self.admin_url}/faults", timeout=10).raise_for_status()
        given = {"seed": seed, "share": share, "weights": dict(weights or {})}
        requests.post(f"{self.admin_url}/chaos", json=given, timeout=10).raise_for_status()
        try:
            attempts, made = self._passes(window, outcome)
        finally:
            requests.delete(f"{self.admin_url}/chaos", timeout=10).raise_for_status()
        outcome.fired = requests.get(f"{self.admin_url}/chaos", timeout=10).json()["fired"]
        after = self._counts()
        outcome.calls = {name: count - before.get(name, 0) for name, count in after.items()}
        self._drain()
        self.out.print("Comparing both sides row by row")
        # What has left the 30 days since the first pass could not be read by the later ones.
        still_there = Window(readable_since(utc_now()), window.end)
        found = moving.results(self.database, self.admin_url, still_there, attempts)
        outcome.results = [result for result in found if result.table in self.tables]
        outcome.audit_differences = self._audit_differences(made)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _passes(self, window: Window, outcome: Outcome) -> tuple[dict[str, Mapping[str, Any]], Counter[str]]:
        """The last attempt of each table, and how many attempts there were."""
        attempts: dict[str, Mapping[str, Any]] = {}
        made: Counter[str] = Counter()
        left = list(self.tables)
        while left and len(outcome.passes) < PASSES and not outcome.hung:
            outcome.passes.append(len(left))
            self.out.print(f"Pass {len(outcome.passes)}: {len(left)} tables")
            moved = moving.move(window, self.home, self.out, tables=left, seconds=_PASS_SECONDS)
            attempts |= moved.attempts
            made.update(left)
            outcome.hung += moved.overdue
            left = moved.failed(left)
            for name in left:
                reason = str(moved.attempts.get(name, {}).get("FailureReason", ""))
                outcome.reasons.append(f"{name}: {reason or 'no attempt was observed'}")
                if name not in reason:
                    outcome.unexplained.append(outcome.reasons[-1])
        return attempts, made

    def _begin(self) -> Window:
        """An ADX and a Dagster that know nothing, and the window of the run."""
        requests.delete(f"{self.admin_url}/adx/rows", timeout=120).raise_for_status()
        shutil.rmtree(self.home / "dagster", ignore_errors=True)
        tenancy.dagster_environment(self.home)
        moving.prepare_database(self.database)
        now = utc_now()
        return Window(readable_since(now), now - self.database.settings.defender_settle)

    def _counts(self) -> dict[str, int]:
        """Requests that each service has taken."""
        answer = requests.get(f"{self.admin_url}/log/counts", timeout=10)
        answer.raise_for_status()
        return dict(answer.json())

    def _drain(self) -> None:
        """Wait for messages that come late or again, so that what they do is seen by the comparison."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while requests.get(f"{self.admin_url}/worker", timeout=10).json()["waiting"] and time.monotonic() < deadline:
            time.sleep(0.2)

    def _audit_differences(self, made: Counter[str]) -> dict[str, int]:
        rows = self.database.adx.query(f"{kql_name(AUDIT)} | summarize Rows = count() by TableName")
        written = {row["TableName"]: int(row["Rows"]) for row in rows}
        return {name: written.get(name, 0) - count for name, count in made.items() if written.get(name, 0) != count}


def run(*, home: Path, samples: Path | None, seed: int, chaos: int, fresh: bool, as_json: bool) -> int:
    """The whole demo under chaos; 0 when every table is exact, nothing hung and the calls are within their bound."""
    out = console(stderr=as_json)
    with demo.demo_database(home=home, samples=samples, seed=seed, fresh=fresh, out=out) as (database, admin_url):
        outcome = Arena(database, admin_url, home, out).run(chaos)
    moving.print_results(outcome.results, outcome.seconds, out)
    print_outcome(outcome, out)
    if as_json:
        line = {**outcome.as_dict(), "tables": [result.as_dict() for result in outcome.results]}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
    return 0 if outcome.ok else 1


def print_outcome(outcome: Outcome, out: Console) -> None:
    """Faults, failures and calls."""
    table = Table("Service", "Calls", "Faulty", "Faults")
    for service, kinds in outcome.fired.items():
        told = ", ".join(f"{name} {count}" for name, count in kinds.items())
        table.add_row(service, str(outcome.calls.get(service, "")), str(sum(kinds.values())), told)
    out.print(table)
    for reason in outcome.reasons:
        out.print(f"failed and run again: {reason.splitlines()[0][:300]}", highlight=False, markup=False)
    for name, more in outcome.audit_differences.items():
        out.print(f"{name}: {more:+d} audit rows against its attempts", highlight=False)
    if outcome.hung:
        out.print(f"A pass did not end within {_PASS_SECONDS:.0f} s and was stopped", style="red")
    out.print(
        f"Seed {outcome.seed}: {outcome.faults} faulty calls, {len(outcome.passes)} passes {outcome.passes}; hunting"
        f" calls {outcome.quiet_calls} quiet, {outcome.hunting_calls} under chaos, {outcome.allowed_calls} allowed",
        highlight=False,
    )
