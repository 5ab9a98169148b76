"""The whole matrix: every case, one line each, and the sums. `python -m defender_adx_pipeline_tests.faults`.

Here: which cases there are, playing them one after the other, the table. Not here: the cases.
"""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from defender_adx_pipeline.defs.abandoned import end_with_run
from defender_adx_pipeline_tests.faults import (
    cases_concurrency,
    cases_defender,
    cases_late,
    cases_loading,
    cases_peers,
    cases_snapshot_days,
    cases_snapshot_kills,
    cases_snapshot_reader,
    cases_snapshots,
    cases_state,
)
from defender_adx_pipeline_tests.faults.bench import Bench, open_bench
from defender_adx_pipeline_tests.faults.case import Case, play
from defender_adx_pipeline_tests.faults.judging import Verdict, judge
from defender_adx_pipeline_tests.kill_outcome import Outcome

Say = Callable[[str], None]

_MODULES = (
    cases_peers,
    cases_defender,
    cases_late,
    cases_loading,
    cases_state,
    cases_concurrency,
    cases_snapshots,
    cases_snapshot_days,
    cases_snapshot_kills,
    cases_snapshot_reader,
)
STRIDES = {
    cases_peers.GROUP: 1,
    cases_defender.GROUP: 5,
    cases_late.GROUP: 5,
    cases_loading.GROUP: 5,
    cases_state.GROUP: 9,
    cases_concurrency.GROUP: 2,
    cases_snapshots.GROUP: 30,
    cases_snapshot_days.GROUP: 7,
    cases_snapshot_kills.GROUP: 20,
}
"""A subset has every n-th case of a group: they differ in the fault and its place, in an order that takes turns."""
ALWAYS = frozenset(
    {
        "401 once on page 2",
        "413",
        "400, name not resolved, on page 3",
        "ingestion fails for good after queueing",
        "a record above 1 MiB",
        "rows come and go before bucket 3",
    }
)
"""What a subset has besides: kinds of error that fall between."""
HEADING = f"{'fault':78} {'source':>8} {'loaded':>8} {'missing':>8} {'doubled':>8}  audit"


@dataclass(slots=True)
class Sums:
    """What the last line says."""

    cases: int = 0
    missing: int = 0
    duplicates: int = 0
    unexplained: int = 0
    objections: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, doubled or unexplained, and there was something to look at."""
        return bool(self.cases) and not (self.missing or self.duplicates or self.unexplained)

    def add(self, verdict: Verdict) -> None:
        """Count a case in."""
        self.cases += 1
        self.missing += verdict.missing
        self.duplicates += verdict.duplicates
        self.unexplained += verdict.unexplained
        self.objections += [f"{verdict.name}: {objection}" for objection in verdict.objections]

    def add_kills(self, outcome: Outcome) -> None:
        """Count kills in: each is a case."""
        self.cases += outcome.cases
        self.missing += outcome.missing
        self.duplicates += outcome.duplicates
        self.unexplained += outcome.unexplained + outcome.watermark_past_hole
        self.objections += outcome.reasons
        if not outcome.ok and outcome.exact:
            self.unexplained += 1
            self.objections.append("too many kills hit a run that was over")

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.cases + other.cases,
            self.missing + other.missing,
            self.duplicates + other.duplicates,
            self.unexplained + other.unexplained,
            [*self.objections, *other.objections],
        )

    def facts(self) -> dict[str, int]:
        """For JSON."""
        return {name: getattr(self, name) for name in ("cases", "missing", "duplicates", "unexplained")}


def all_cases() -> list[Case]:
    """Every case but the kills."""
    return [case for module in _MODULES for case in module.cases()]


def chosen(cases: Iterable[Case], *, subset: bool, only: str) -> list[Case]:
    """The cases of a subset, those that have a text in their group or name."""
    found = [case for case in cases if only.casefold() in f"{case.group}: {case.name}".casefold()]
    if not subset:
        return found
    places: Counter[str] = Counter()
    some = []
    for case in found:
        due = places[case.group] % STRIDES[case.group] == 0 or case.name in ALWAYS
        places[case.group] += 1
        if due and not case.whole:
            some.append(case)
    return some


def line(verdict: Verdict) -> str:
    """A row of the table."""
    return (
        f"{verdict.name:78} {verdict.source_rows:8,} {verdict.loaded:8,} {verdict.missing:8,}"
        f" {verdict.duplicates:8,}  {verdict.audit}"
    )


def played(bench: Bench, case: Case) -> Verdict:
    """One case from the empty bench to the verdict; what the bench itself cannot do is an objection, too."""
    try:
        return judge(bench, case, play(bench, case))
    except Exception as error:  # noqa: BLE001 - one case must not end the others
        return Verdict(case.name, 0, 0, 0, 0, "", 0.0, (f"the bench fails: {type(error).__name__}: {error}"[:600],))


def run_cases(cases: Sequence[Case], say: Say) -> Sums:
    """Play cases on a bench and tell each as it ends; a run that hangs costs the bench, not the others."""
    sums, left, group = Sums(), list(cases), ""
    say(HEADING)
    while left:
        with open_bench() as bench:
            while left:
                case = left.pop(0)
                if case.group != group:
                    group = case.group
                    say(f"-- {group}")
                began = time.monotonic()
                verdict = played(bench, case)
                sums.add(verdict)
                say(f"{line(verdict)} ({time.monotonic() - began:.1f} s)")
                for objection in verdict.objections:
                    say(f"     !! {objection}")
                if any(run.hung for run in bench.runs):
                    break
    return sums


def run_in_jobs(*, subset: bool, only: str, jobs: int, say: Say) -> Sums:
    """Play the chosen cases in processes of their own, each with a bench and every so-manieth case.

    Args:
        subset: as for `chosen`.
        only: as for `chosen`.
        jobs: how many processes.
        say: is told a line for each case; a function of a module, since the jobs have it, too.
    """
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_job, number, jobs, subset, only, say) for number in range(jobs)]
        return sum((future.result() for future in running), Sums())


def _job(number: int, jobs: int, subset: bool, only: str, say: Say) -> Sums:
    end_with_run()  # here: with the process that started the jobs
    share = chosen(all_cases(), subset=subset, only=only)[number::jobs]
    return run_cases(share, say) if share else Sums()


def listed(cases: Iterable[Case]) -> Iterator[str]:
    """A line for each case, without running anything."""
    for number, case in enumerate(cases, 1):
        yield f"{number:3} {case.group}: {case.name} -> {case.expect}"
