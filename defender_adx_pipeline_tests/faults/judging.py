"""Whether what a case left behind is right: rows on both sides, audits, observations, watermark, ledger, secrets.

Here: the verdict, which trusts nothing that the pipeline says. Not here: the runs (`case`, `bench`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline_tests.faults.bench import Bench, Ran
from defender_adx_pipeline_tests.faults.case import Case, Course, Expect
from defender_adx_pipeline_tests.faults.launching import LABEL
from defender_adx_pipeline_tests.faults.served import left_open

WINDOW = re.compile(
    r"\[\d{4}-\d\d-\d\dT[\d:.]+Z, \d{4}-\d\d-\d\dT[\d:.]+Z\)|\bpartitions \d{4}-\d\d-\d\d(?:\.\.\.\d{4}-\d\d-\d\d)?\b"
)
"""Of an attempt that was killed before it had planned anything, the partitions alone are known."""
KEPT = re.compile(r"\bkept\b|\bkeeps?\b|\bstays?\b|[Nn]othing (of|was|is|of)\b|\bwas not moved\b|\bloaded nothing\b")
FAILURES: Mapping[Expect, int] = {"exact": 0, "skipped": 0, "loud_then_exact": 1, "loud": 2}
"""How many of the runs that the case itself prescribes have to fail; they are always the first."""
_SECRET = re.compile(r"local-tenant-secret|[?&;]sig=(?!\*)|eyJ[\w-]{8,}\.[\w-]+\.|Bearer [\w-]{8,}")
_BEGINS = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_FIELDS = ("Status", "RecordCount", "FailureReason")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table."""

    name: str
    source_rows: int
    loaded: int
    missing: int
    duplicates: int
    audit: str
    seconds: float
    objections: Sequence[str] = field(default=())

    @property
    def unexplained(self) -> int:
        """1 when something is not as it should be."""
        return int(bool(self.objections))


def judge(bench: Bench, case: Case, course: Course) -> Verdict:
    """The verdict over a case that was played."""
    objections = list(course.objections)
    source = loaded = missing = duplicates = 0
    snapshots = bench.snapshots.of(bench.tables)
    for watched in (item for ran in bench.runs[-1:] for item in ran.watched):
        source, loaded = source + watched.states[-1].total(), loaded + watched.after.rows.total()
        missing, duplicates = missing + watched.missing(), duplicates + watched.surplus()
    for table in (table for table in bench.tables if table not in snapshots):
        truth, there = bench.truth(table), bench.loaded(table)
        source, loaded = source + truth.total(), loaded + there.total()
        missing += (truth - there).total()
        duplicates += (there - truth).total()
    if missing and missing <= case.lost:
        missing = 0
    elif case.lost:
        objections.append(f"{case.lost} rows should not be there, and {missing} are not")
    objections += [*_about_runs(bench, case), *_about_audits(bench, case), *_secrets(bench)]
    if case.arm is not None and not course.hits:
        objections.append("the fault hit nothing")
    objections += [*left_open(bench.database.adx), *bench.snapshots.changed()]
    counted = [f"{row['Status']} {row['RecordCount']:,}" for row in bench.audits()]
    seconds = sum(run.seconds for run in bench.runs)
    said = tuple(_SECRET.sub("***", objection) for objection in objections)
    return Verdict(case.name, source, loaded, missing, duplicates, "; ".join(counted), seconds, said)


def _about_runs(bench: Bench, case: Case) -> Iterator[str]:
    runs = bench.runs
    if not runs:
        yield "nothing ran"
        return
    for number, ran in enumerate(runs, 1):
        what = f"run {number}"
        if ran.hung:
            yield f"{what} hangs"
        if ran.past_hole:
            yield f"{what}: the watermark is past {ran.past_hole} rows that ADX does not have"
        for watched in ran.watched:
            success = ran.success and not any(row["Status"] == "Skipped" for row in ran.audits)
            yield from (f"{what}: {objection}" for objection in watched.objections(success=success))
        if not ran.success:
            yield from _about_failure(what, ran, case)
    for_good = bool(case.lost) and case.expect == "loud"
    if not runs[-1].success and not for_good:
        yield f"the last run fails: {runs[-1].message[:500]}"
    failed = sum(not ran.success for ran in runs)
    wanted = case.failures if case.script is not None else FAILURES[case.expect] + for_good
    if wanted is not None and failed != wanted:
        shown = next((ran.message[:500] for ran in runs if not ran.success), "")
        there = [ran.rows_there for ran in runs]
        yield f"{failed} runs failed, and {wanted} should; rows in ADX after each: {there} {shown}"
    if case.script is None:
        yield from _about_first_and_last(case, runs)


def _about_first_and_last(case: Case, runs: Sequence[Ran]) -> Iterator[str]:
    idle = case.expect == "exact" and not runs[-1].watched
    if idle and any(row["RecordCount"] for row in runs[-1].audits):
        yield "the run after the exact one loads rows"
    if case.expect == "skipped" and [row["Status"] for row in runs[0].audits] != ["Skipped"]:
        yield "the first run has no audit row that says Skipped"


def _about_failure(what: str, ran: Ran, case: Case) -> Iterator[str]:
    if not ran.message:
        yield f"{what} fails without a word"
    for row in ran.audits:
        if row["Status"] != "Failed":
            continue
        reason = row["FailureReason"]
        if row["TableName"] not in reason:
            yield f"{what}: the reason does not name the table: {reason[:400]}"
        if not WINDOW.search(reason):
            yield f"{what}: the reason does not name a window: {reason[:400]}"
        if not KEPT.search(reason):
            yield f"{what}: the reason does not say what is kept: {reason[:400]}"
        if case.says and not re.search(case.says, reason):
            yield f"{what}: the reason does not say {case.says!r}: {reason[:400]}"


def _about_audits(bench: Bench, case: Case) -> Iterator[str]:
    """One audit row and one observation an attempt, alike, and together the rows that ADX has."""
    loaded, audits = bench.loaded_by_runs(), bench.audits()
    counted = sum(row["RecordCount"] for row in audits)
    if (case.adds_up == "yes" and counted != loaded) or (case.adds_up == "at least" and counted < loaded):
        yield f"ADX has {loaded} rows, and the audit rows say {counted}"
    runs = bench.instance.get_runs(filters=dg.RunsFilter(tags={LABEL: bench.label}))
    begun: Counter[str | None] = Counter()
    for run in runs:
        if not run.is_finished:
            yield f"run {run.run_id} is {run.status.value} for ever"
        begun.update(entry.step_key for entry in bench.instance.all_logs(run.run_id, of_type=_BEGINS))
    for table in bench.tables:
        key = raw_key(bench.world.catalogue[table])
        rows = [row for row in audits if row["TableName"] == table]
        attempts = begun[key.to_python_identifier()]
        if len(rows) != attempts:
            yield f"{attempts} attempts have {len(rows)} audit rows"
        observed = Counter(_values(bench, key))
        audited = Counter(tuple(row[name] for name in _FIELDS) for row in rows)
        for row in (audited - observed).elements():
            yield f"not observed: {row}"
        for row in (observed - audited).elements():
            yield f"observed, but not in the audit log: {row}"


def _values(bench: Bench, key: dg.AssetKey) -> Iterator[tuple[Any, ...]]:
    for record in bench.instance.fetch_observations(key, limit=1000).records:
        if record.asset_observation is not None:
            yield tuple(record.asset_observation.metadata[name].value for name in _FIELDS)


def _secrets(bench: Bench) -> Iterator[str]:
    texts = [*bench.logged, *(ran.message for ran in bench.runs), *(str(row) for row in bench.audits())]
    for run in bench.instance.get_runs(filters=dg.RunsFilter(tags={LABEL: bench.label})):
        texts += [f"{entry.user_message} {entry.to_json()}" for entry in bench.instance.all_logs(run.run_id)]
    for text in texts:
        found = _SECRET.search(text)
        if found:
            # Not the secret itself: what is printed here goes into logs, too.
            yield f"a secret in a message: ...{text[max(0, found.start() - 80) : found.start()]}***"
            return
