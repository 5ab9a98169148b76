"""`kill -9` of a run at every stage of a snapshot; the next run goes on, and what is served is whole all the time.

Here: the stages, and a run that is killed as a pipeline of the bench. Not here: random points of event tables
(`kills`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from defender_adx_pipeline_tests.faults.bench import Bench, Pipeline
from defender_adx_pipeline_tests.faults.case import Act, Case
from defender_adx_pipeline_tests.faults.cases_snapshots import LEDGER_ROWS, READS, case
from defender_adx_pipeline_tests.faults.cases_state import WRITES
from defender_adx_pipeline_tests.faults.launching import LABEL, end, launched
from defender_adx_pipeline_tests.faults.snapshot_rows import BUCKETS, change, come, move, put

GROUP = "snapshots and kill -9"
POINT_SECONDS = 40.0
"""In which a run reaches the request at which it is killed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A request at which a run is killed."""

    name: str
    service: str
    match: str = ""
    method: str = ""
    number: int = 1


STAGES = (
    Stage("the columns", "hunting", "getschema"),
    Stage("the count before", "hunting", "by Bucket"),
    Stage("bucket 1", "hunting", "SnapshotTime"),
    Stage("bucket 3", "hunting", "SnapshotTime", number=3),
    Stage("the last bucket", "hunting", "SnapshotTime", number=BUCKETS),
    Stage("the upload of bucket 2", "storage", method="PUT", number=2),
    Stage("the queue message of bucket 2", "storage", method="POST", number=2),
    *(Stage(f"the ledger, {told}", "engine", WRITES["ledger"], number=number) for told, number in LEDGER_ROWS.items()),
    Stage("the tags", "engine", READS["tags"]),
    Stage("the count after", "hunting", "by Bucket", number=2),
    Stage("the count in ADX", "engine", READS["count of the rows in ADX"]),
    Stage("the watermark", "engine", WRITES["watermark"]),
    Stage("the audit", "engine", WRITES["audit"]),
)
BY_NAME = {stage.name: stage for stage in STAGES}
POSITIONS: Mapping[str, str] = {"before": "hang", "after": "lost_reply"}
"""Whether the tenant has done the work, and the fault by which it holds the request there."""


def killed_at(stage: Stage, position: str) -> Pipeline:
    """A run in a process of its own that is killed at a request."""

    def run(bench: Bench, tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]) -> tuple[bool, str]:
        selected: dict[str, Any] = {"match": stage.match, "method": stage.method, "first": stage.number}
        faults, mark = bench.tenant.faults, bench.tenant.log.last_number()
        faults.add(stage.service, POSITIONS[position], **selected)  # type: ignore[arg-type]

        def reached() -> bool:
            if position == "before":
                return faults.fired() > 0
            return any(entry.fault == "lost_reply" for entry in bench.tenant.log.entries(since=mark))

        with launched(tables, first, last, tags[LABEL]) as process:
            bench.when(lambda: process.poll() is not None or reached(), POINT_SECONDS)
            if process.poll() is not None or not reached():
                raise AssertionError(f"the run does not come to {stage.name}: {process.poll()}")
            end(process)
        faults.clear()
        return False, f"killed {position} {stage.name}"

    return run


def kill(name: str, position: str) -> Act:
    """A run that is killed, as an act."""
    pipeline = killed_at(BY_NAME[name], position)

    def act(bench: Bench) -> None:
        bench.run(pipeline=pipeline)

    return act


def then_run(*acts: Act) -> Act:
    """Some acts, and two runs: the first goes on with what is open, the second takes the day anew."""

    def script(bench: Bench) -> None:
        for act in acts:
            act(bench)
        bench.run()
        bench.run()

    return script


def _kill_case(name: str, script: Act, failures: int = 1) -> Case:
    # Of what a killed run has sent, nobody can always tell whose blob came.
    return case(name, None, group=GROUP, script=script, failures=failures, processes=True, adds_up="no")


def _held(bench: Bench) -> None:
    """The killed run's blobs are loaded only after the next run has queued its own."""
    bench.tenant.worker.stop()
    bench.run(pipeline=killed_at(BY_NAME["the ledger, Queued"], "before"))
    queued = bench.requests("storage", "POST")
    wait = bench.start()
    bench.when(lambda: bench.requests("storage", "POST") > queued, 30.0)
    bench.tenant.worker.start()
    wait()


def cases() -> Iterator[Case]:
    """All of them."""
    for stage in STAGES:
        for position in POSITIONS:
            script = then_run(kill(stage.name, position))
            yield _kill_case(f"kill -9 {position} {stage.name}", script)
    chain = then_run(
        kill("the count before", "after"),
        kill("bucket 3", "before"),
        kill("the upload of bucket 2", "after"),
        kill("the ledger, Queued", "before"),
        kill("the count in ADX", "after"),
        kill("the watermark", "before"),
    )
    yield _kill_case("kill -9 of six runs one after the other, each later", chain, failures=6)
    drifting = then_run(kill("bucket 3", "before"), come, kill("the ledger, Confirmed", "before"), change)
    yield _kill_case("kill -9 twice, and rows come and change between the runs", drifting, failures=2)
    moved = then_run(kill("the last bucket", "after"), lambda bench: move(bench, "moved", 1))
    yield _kill_case("kill -9 at the last bucket, and a whole new state comes", moved)
    yield _kill_case("kill -9, and its blobs come during the next run", _held)
    lost = then_run(kill("the ledger, Queued", "after"), lambda bench: put(bench, range(700, 703), "late"))
    yield _kill_case("kill -9 after blobs were queued, and rows come", lost)
