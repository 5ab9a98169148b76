"""The whole matrix: every case, one line each, and the sums. `python -m defender_adx_pipeline_tests.faults`.

Here: which cases there are, playing them one after the other, the table. Not here: the cases.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from defender_adx_pipeline_tests.faults import cases_defender
from defender_adx_pipeline_tests.faults.bench import Bench, open_bench
from defender_adx_pipeline_tests.faults.case import Case, play
from defender_adx_pipeline_tests.faults.judging import Verdict, judge

Say = Callable[[str], None]

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

    def facts(self) -> dict[str, int]:
        """For JSON."""
        return {name: getattr(self, name) for name in ("cases", "missing", "duplicates", "unexplained")}


def all_cases() -> list[Case]:
    """Every case but the kills."""
    return [*cases_defender.cases()]


def chosen(cases: Iterable[Case], *, subset: bool, only: str) -> list[Case]:
    """The cases of a subset, those that have a text in their group or name."""
    found = [case for case in cases if only.casefold() in f"{case.group}: {case.name}".casefold()]
    return [case for case in found if not (subset and case.whole)]


def line(verdict: Verdict) -> str:
    """A row of the table."""
    return (
        f"{verdict.name:78} {verdict.source_rows:8,} {verdict.loaded:8,} {verdict.missing:8,}"
        f" {verdict.duplicates:8,}  {verdict.audit}"
    )


def played(bench: Bench, case: Case) -> Verdict:
    """One case from the empty bench to the verdict."""
    return judge(bench, case, play(bench, case))


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


def listed(cases: Iterable[Case]) -> Iterator[str]:
    """A line for each case, without running anything."""
    for number, case in enumerate(cases, 1):
        yield f"{number:3} {case.group}: {case.name} -> {case.expect}"
