"""The situations in which the flow that this project replaces loses rows: as cases, and as a comparison of both flows.

Here: the rows of each situation, what goes wrong at which call, and the older flow as a pipeline of the bench. Not
here: the older flow itself (`benchmarks/older_flow.py`) and the verdict over our own (`judging`).

Row numbers are a tenth of those that the older scripts used, and so is Defender's cap on the rows of an answer. Times
are whole microseconds, so that nothing hangs on the seventh digit, which the older flow's watermark does not survive.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import orjson

from benchmarks.older_flow import CHUNK_ROWS, PAGE_ROWS, OlderFlow
from defender_adx_pipeline.adx.state_kql import CONFIGURATION
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.local.source import quoted
from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.case import TABLE, Case, Course, play
from defender_adx_pipeline_tests.faults.judging import Verdict, judge

GROUP = "what the older flow loses"
SCALE = 10
"""By how much numbers of rows are smaller than those that the older scripts were measured with."""

ANSWER_ROWS = 100_000
AGO = timedelta(days=2)
SPREAD = timedelta(hours=15)
"""Between the times of the first and the last row of a situation."""

PAGES_WITH_ARRIVALS = 4

Variant = Literal["sequential", "parallel"]
Place = int | Literal["count", "last"]


@dataclass(frozen=True, slots=True)
class Situation:
    """One row of the comparison. Row numbers are those of the older scripts, before scaling."""

    name: str
    variant: Variant
    rows: int
    tied: int = 1
    """How many rows share each time, one beside the other."""
    fault: str = ""
    """What goes wrong, by its name in `local.presets`."""
    at: Place = 2
    """Where: at the count, or at a page by its number."""
    tries: int = 1
    """How many tries of that call go wrong."""
    arriving: int = 0
    """Rows newer than all others that arrive before each of the first four pages."""
    late: int = 0
    """Rows that arrive after the first run, with times between those of the others."""
    runs: int = 1
    """Of the older flow; ours always does two."""

    @property
    def page(self) -> int:
        """Rows of a page or chunk of the older flow, before scaling."""
        return PAGE_ROWS if self.variant == "sequential" else CHUNK_ROWS

    @property
    def pages(self) -> int:
        """How many the older flow needs."""
        return -(-self.rows // self.page)


SITUATIONS = (
    Situation("quiet table", "sequential", 25_000),
    Situation("one 429 on page 2", "sequential", 25_000, fault="throttled_minute"),
    Situation("400, result too large, on page 2", "sequential", 25_000, fault="too_large"),
    Situation("the same, then a clean second run", "sequential", 25_000, fault="too_large", runs=2),
    Situation("200 rows arrive before each page", "sequential", 25_000, arriving=200),
    Situation("300 late rows, then a second run", "sequential", 25_000, late=300, runs=2),
    Situation("quiet table", "parallel", 110_000),
    Situation("three rows share each time", "parallel", 110_000, tied=3),
    Situation("three times for all rows", "parallel", 110_000, tied=36_670),
    Situation("one time for all rows", "parallel", 110_000, tied=110_000),
    Situation("500 on chunk 2, then a second run", "parallel", 110_000, fault="server_error", runs=2),
    Situation("429 on chunk 2 five times, second run", "parallel", 110_000, fault="throttled_minute", tries=5, runs=2),
    Situation("429 on the count", "parallel", 110_000, fault="throttled_minute", at="count"),
    Situation("reset on chunk 2, then a second run", "parallel", 110_000, fault="reset", runs=2),
    Situation("500 on the last chunk, second run", "parallel", 110_000, fault="server_error", at="last", runs=2),
)


@dataclass(frozen=True, slots=True)
class Played:
    """A situation at a size, on a bench."""

    situation: Situation
    scale: int

    def case(self) -> Case:
        """For our pipeline: whatever happens, the first run is exact, and the second has nothing to do."""
        own = self.situation
        happens = bool(own.fault or own.arriving)
        return Case(
            name=f"{own.variant}: {own.name}",
            group=GROUP,
            rows=self.rows,
            arm=self.arm if happens else None,
            script=self._two_runs if own.late or own.arriving else None,
            failures=0 if own.late or own.arriving else None,
        )

    def older_case(self) -> Case:
        """For the older flow: as often as its scripts were run there."""
        return Case(
            name=self.situation.name,
            group=GROUP,
            rows=self.rows,
            arm=self.arm_older if self.situation.fault or self.situation.arriving else None,
            script=self._older_runs,
        )

    # Rows.

    def rows(self, bench: Bench) -> None:
        """The rows, and limits that fit their number."""
        cap = ANSWER_ROWS // self.scale
        bench.limit(rows=cap)
        bench.pace.row_cap, bench.pace.slice_rows = cap, self.situation.page // self.scale
        self._add(bench, (place // self._tied * self._step for place in range(self._count)), 0)

    @property
    def _count(self) -> int:
        return self.situation.rows // self.scale

    @property
    def _tied(self) -> int:
        # Rows that share a time are so many by themselves, or a share of all.
        tied = self.situation.tied
        return tied if tied < self.scale else tied // self.scale

    @property
    def _step(self) -> timedelta:
        return SPREAD / (self._count // self._tied)

    def _arrive(self, bench: Bench, batch: int) -> None:
        count = self.situation.arriving // self.scale
        number = self._count + batch * count
        self._add(bench, ((number + place) * self._step for place in range(count)), number)

    def _come_late(self, bench: Bench) -> None:
        count = self.situation.late // self.scale
        self._add(bench, ((7 * place + 0.5) * self._step for place in range(count)), 2 * self._count)

    def _add(self, bench: Bench, times: Iterable[timedelta], first: int) -> None:
        # From a full hour on, so that the slices of our pipeline do not hang on the hour of the day.
        start = (bench.world.now - AGO).replace(minute=0, second=0, microsecond=0)
        # Small ones, so that the bytes of an answer limit neither flow.
        rows = [
            {"Timestamp": to_text(start + since), "ReportId": number, "DeviceName": f"host-{number % 50}"}
            for number, since in enumerate(times, first)
        ]
        bench.tenant.source.insert_rows(TABLE, rows)

    # What happens.

    def arm(self, bench: Bench) -> None:
        """What happens to our pipeline."""
        own = self.situation
        if own.at == "last":
            bench.calls.add(TABLE, "page", lambda: self._arm_last(bench))
        else:
            self._arm_calls(bench, 1 if own.at == "count" else own.at)

    def arm_older(self, bench: Bench) -> None:
        """What happens to the older flow, whose chunks come at once, so that their text has to tell them apart."""
        own = self.situation
        if own.variant == "sequential" or own.at == "count":
            self._arm_calls(bench, 1 if own.at == "count" else int(own.at))
            return
        first = ((own.pages if own.at == "last" else own.at) - 1) * own.page // self.scale + 1
        bench.tenant.faults.add("hunting", own.fault, match=f"between ({first} ", times=own.tries)

    def _arm_calls(self, bench: Bench, first: int) -> None:
        own = self.situation
        if own.fault:
            kind: Literal["count", "page"] = "count" if own.at == "count" else "page"
            bench.calls.fault(TABLE, kind, own.fault, first=first, times=own.tries)
        for batch in range(PAGES_WITH_ARRIVALS if own.arriving else 0):
            bench.calls.add(TABLE, "page", self._arrival(bench, batch), first=1 + batch)

    def _arrival(self, bench: Bench, batch: int) -> Callable[[], None]:
        return lambda: self._arrive(bench, batch)

    def _arm_last(self, bench: Bench) -> None:
        # The first page is being read: the ledger says how many there are.
        left = bench.open_slices() - 1
        bench.calls.fault(TABLE, "page", self.situation.fault, first=left, times=self.situation.tries)

    # Runs.

    def _two_runs(self, bench: Bench) -> None:
        bench.run()
        self._come_late(bench)
        bench.run()

    def _older_runs(self, bench: Bench) -> None:
        bench.run(pipeline=self._older_flow)
        for _ in range(1, self.situation.runs):
            bench.drain()
            self._come_late(bench)
            bench.run(pipeline=self._older_flow)

    def _older_flow(
        self, bench: Bench, tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]
    ) -> tuple[bool, str]:
        """One run of the older flow in place of ours; it takes no bounds."""
        with OlderFlow(bench.tenant.environment(), scale=self.scale, sleep=lambda seconds: None) as flow:
            for table in tables:
                try:
                    getattr(flow, self.situation.variant)(table)
                except KeyError as error:
                    return False, f"the run ends with {error!r}"
        return True, ""


def cases() -> Iterator[Case]:
    """The situations for our pipeline."""
    return (Played(situation, SCALE).case() for situation in SITUATIONS)


# The comparison.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a flow left in ADX."""

    source_rows: int
    loaded: int
    missing: int
    duplicates: int
    audit: str
    """Status and RecordCount of each audit row, and what else became of the table."""

    @property
    def exact(self) -> bool:
        """Whether every row is there once."""
        return not self.missing and not self.duplicates


@dataclass(frozen=True, slots=True)
class Compared:
    """Both flows through one situation."""

    situation: Situation
    ours: Verdict
    older: Outcome


def compared(bench: Bench, situation: Situation, scale: int = SCALE) -> Compared:
    """Run both flows through a situation, one after the other."""
    played = Played(situation, scale)
    case = played.case()
    ours = judge(bench, case, play(bench, case))
    return Compared(situation, ours, _outcome(bench, play(bench, played.older_case())))


def _outcome(bench: Bench, course: Course) -> Outcome:
    """The older flow's outcome, rows by their ReportId: it does not keep the other columns as they were."""
    truth = Counter(orjson.loads(line)["ReportId"] for line in bench.tenant.source.rows(TABLE))
    cursor = bench.tenant.adx.cursor()
    cursor.execute(f"SELECT CAST(Records ->> 'ReportId' AS BIGINT) FROM adx.data.{quoted(f'{TABLE}Raw')}")
    there = Counter(number for (number,) in cursor.fetchall())
    remarks = [f"{row['Status']} {row['RecordCount']:,}" for row in bench.audits()]
    remarks += [ran.message for ran in bench.runs if not ran.success]
    remarks += course.objections
    (row,) = [row for row in bench.database.state.configuration_rows() if row["SourceTable"] == TABLE]
    if not row["IsActive"]:
        remarks.append("the table is inactive")
    if row["LastRefreshedTime"] is None:
        remarks.append(f"no watermark in {CONFIGURATION}")
    return Outcome(
        source_rows=truth.total(),
        loaded=there.total(),
        missing=(truth - there).total(),
        duplicates=(there - truth).total(),
        audit="; ".join(remarks),
    )


HEADING = f"{'   variant    situation':52} {'flow':10} {'source':>7} {'loaded':>7} {'missing':>7} {'doubled':>7}  audit"


def lines(number: int, both: Compared) -> list[str]:
    """Two lines of the table: ours and the older flow's."""
    rows = (("pipeline", both.ours), ("older flow", both.older))
    names = (f"{number:2} {both.situation.variant:10} {both.situation.name}", "")
    table = [
        f"{name:52} {flow:10} {one.source_rows:7,} {one.loaded:7,} {one.missing:7,} {one.duplicates:7,}  {one.audit}"
        for name, (flow, one) in zip(names, rows, strict=True)
    ]
    return [*table, *(f"     !! {objection}" for objection in both.ours.objections)]


def facts(results: Sequence[Compared]) -> dict[str, Any]:
    """The sums over all situations, for the last line."""

    def sums(outcomes: Sequence[Verdict | Outcome]) -> dict[str, int]:
        return {name: sum(getattr(one, name) for one in outcomes) for name in ("missing", "duplicates")}

    older = [both.older for both in results]
    return {
        "rows": len(results),
        "ours": {
            **sums([both.ours for both in results]),
            "unexplained": sum(both.ours.unexplained for both in results),
        },
        "reference": {**sums(older), "rows_with_losses": sum(not one.exact for one in older)},
    }


def compare_all(bench: Bench, say: Callable[[str], None], scale: int = SCALE) -> bool:
    """Run both flows through every situation and print the table; whether ours is right and the other one is not."""
    say("Rows after the runs that are named. A further run of the older flow loads what 5 and 13 miss, no other.")
    say(HEADING)
    results: list[Compared] = []
    for number, situation in enumerate(SITUATIONS, 1):
        results.append(compared(bench, situation, scale))
        for line in lines(number, results[-1]):
            say(line)
    sums = facts(results)
    say(orjson.dumps(sums).decode())
    return not any(sums["ours"].values()) and sums["reference"]["rows_with_losses"] > 0
