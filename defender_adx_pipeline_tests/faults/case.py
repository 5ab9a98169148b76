"""A case of the fault matrix as a value, and playing it. Not here: the verdict (`judging`), the cases (`cases_*`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from defender_adx_pipeline_tests.faults.bench import RUN_SECONDS, Bench

Expect = Literal["exact", "loud_then_exact", "loud", "skipped"]
"""What explains a case: a run that is exact at once; one that fails, and the next one is exact; runs that fail as often
as the fault is there, and one without it that is exact; a run that leaves the table alone and says so."""

AddsUp = Literal["yes", "at least", "no"]

TABLE = "DeviceLogonEvents"
ROWS = 360
"""Five minutes apart: four slices."""
AGO = timedelta(days=2)

Act = Callable[[Bench], None]


def nothing(bench: Bench) -> None:
    """Do nothing."""
    del bench


def some_rows(bench: Bench) -> None:
    """The rows of most cases: four slices in each table."""
    for table in bench.tables:
        bench.rows(table, ROWS, ago=AGO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Rows, what goes wrong, runs, and what counts as explained."""

    name: str
    group: str
    expect: Expect = "exact"
    tables: Sequence[str] = (TABLE,)
    rows: Act = some_rows
    arm: Act | None = None
    """What goes wrong with the first run; it has to hit something."""
    script: Act | None = None
    """The runs, where they are others than `expect` says; the last one has to be exact."""
    between: Act = nothing
    """What happens after the first run."""
    says: str = ""
    """What the reason of a failure has to say, as a regular expression."""
    failures: int | None = None
    """With a script: how many of its runs have to fail; None: it does not matter which side of a race wins."""
    lost: int = 0
    """Rows that cannot be had, and that a failure has to tell of."""
    adds_up: AddsUp = "yes"
    """Whether the audit rows add up to the rows in ADX. Not where somebody else adds or removes rows. At least to them
    where two attempts may send one slice at the same time: ADX takes one of the two blobs, both see the slice
    confirmed, and nobody can tell whose it was."""
    patience: float | None = None
    """Seconds for which the hunting client bears being throttled; half a minute at this clock unless said."""
    seconds: float = RUN_SECONDS
    """What a run may take; beyond that it hangs."""
    whole: bool = False
    """Left out of the subset."""
    processes: bool = False
    """Runs Dagster in processes of its own: some seconds more."""


@dataclass(slots=True)
class Course:
    """What happened in a case beyond the runs themselves."""

    hits: int = 0
    objections: list[str] = field(default_factory=list)


def play(bench: Bench, case: Case) -> Course:
    """Empty the bench, put the rows there, arm the faults, and do the runs."""
    course = Course()
    bench.reset(case.tables)
    bench.pace.patience, bench.run_seconds = case.patience, case.seconds
    case.rows(bench)
    if case.arm is not None:
        case.arm(bench)
    if case.script is not None:
        case.script(bench)
    else:
        _runs(bench, case)
    bench.calm()
    course.hits = bench.hits
    if not bench.drain():
        course.objections.append("the queue of the ingestion worker does not become empty")
    return course


def _runs(bench: Bench, case: Case) -> None:
    bench.run()
    if case.expect == "loud":
        bench.run()
    bench.calm()
    case.between(bench)
    bench.run()
