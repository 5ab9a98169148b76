"""Snapshots: a fault at every stage from the columns to the watermark, and tables that change while they are read.

What is served afterwards is the old state or the new one, whole; `served` has the verdict. Here: what Defender and ADX
answer. Not here: rows that change, several runs and whole days (`cases_snapshot_days`), kills (`cases_snapshot_kills`).
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.calls import Kind
from defender_adx_pipeline_tests.faults.case import Act, Case, Expect
from defender_adx_pipeline_tests.faults.cases_loading import at
from defender_adx_pipeline_tests.faults.cases_state import WRITES
from defender_adx_pipeline_tests.faults.snapshot_rows import BUCKETS, RAW, TABLE, first_state, old_and_new

GROUP = "snapshots"

STAGES: Mapping[str, tuple[Kind, int, Act]] = {
    "the columns": ("schema", 1, old_and_new),
    "the size": ("count", 1, first_state),
    "the count before": ("count", 1, old_and_new),
    "bucket 1": ("page", 1, old_and_new),
    "bucket 3": ("page", 3, old_and_new),
    "the last bucket": ("page", BUCKETS, old_and_new),
    "the count after": ("count", 2, old_and_new),
}
"""Every call of a snapshot: its kind, its number, and the rows with which it comes about."""

ANYWHERE = {
    "429 of the minute": "throttled_minute",
    "500": "server_error",
    "connection reset": "reset",
    "answer cut off": "truncated_body",
    "HTML with 200": "html_200",
}
AT_A_BUCKET = {
    "401": "expired_token",
    "502 with HTML": "bad_gateway",
    "answer lost": "lost_reply",
    "400, result too large": "too_large",
    "400, preempted": "preempted",
    "504": "gateway_timeout",
    "429 of the hour": "throttled_hour",
    "429 of the CPU": "throttled_cpu",
    "truncated JSON": "truncated_json",
    "empty body with 200": "empty_200",
}
LEDGER_ROWS = {"Planned": 1, "Queued": 2, "Confirmed": 3, "Published": 4}
"""Appends to the ledger, by what they write down."""
READS = {
    "configuration": "VwLatestMigrationConfiguration",
    "snapshots of the day": "Kind == 'Snapshot' and WindowStart >=",
    "snapshot before": "Kind == 'Snapshot' and State == 'Published'",
    "slices of the snapshot": "Kind == 'Slice' and WindowStart ==",
    "tags": "where Tags has_any",
    "count of the rows in ADX": "isnull(ingestion_time())",
    "present": "print Now",
}


def hunting(kind: Kind, name: str, *, first: int = 1, times: int | None = 1, **own: Any) -> Act:
    """A named fault at calls of a kind."""

    def arm(bench: Bench) -> None:
        bench.calls.fault(TABLE, kind, name, first=first, times=times, **own)

    return arm


def worker(name: str, *, first: int = 1, times: int | None = 1, give_up: float | None = None, **own: Any) -> Act:
    """A named fault of the ingestion worker; `give_up`: seconds after which the attempt does not wait any more."""

    def arm(bench: Bench) -> None:
        if give_up is not None:
            bench.pace.confirm_timeout = timedelta(seconds=give_up)
        bench.tenant.faults.add("worker", name, match=RAW, first=first, times=times, **own)

    return arm


def case(name: str, arm: Act | None, expect: Expect = "exact", says: str = "", **rest: Any) -> Case:
    """A case over the rows of most of them."""
    given = {"group": GROUP, "tables": (TABLE,), "rows": old_and_new, **rest}
    return Case(name=name, expect=expect, arm=arm, says=says, **given)


def _defender() -> Iterator[Case]:
    for stage, (kind, number, rows) in STAGES.items():
        for told, name in ANYWHERE.items():
            yield case(f"{told}, on {stage}", hunting(kind, name, first=number), rows=rows)
        for_ever = hunting(kind, "server_error", first=number, times=None)
        yield case(f"500, from {stage} on, for ever", for_ever, "loud", rows=rows)
    for told, name in AT_A_BUCKET.items():
        yield case(f"{told}, on bucket 2", hunting("page", name, first=2))
    for told, name, says in (
        ("429 of the hour", "throttled_hour", "quota"),
        ("400, result too large", "too_large", ""),
        ("answer cut off", "truncated_body", ""),
        ("401", "expired_token", "token"),
        ("403", "forbidden", "ThreatHunting.Read.All"),
    ):
        patience = 1.0 if told.startswith("429") else None
        for_ever = hunting("page", name, first=3, times=None)
        yield case(f"{told}, from bucket 3 on, for ever", for_ever, "loud", says, patience=patience)
    yield case(
        "400, name not resolved, on bucket 3", hunting("page", "unresolved", first=3), "loud_then_exact", "drift"
    )
    yield case("no answer to bucket 2 within the time-out", _hanging)
    yield case("a bucket that is too large is split, and its siblings are read once", None, script=_split, failures=0)
    yield case("answers hold fewer rows than a bucket has", None, script=_small_answers, failures=0)
    yield case("a run that failed is gone on with, and no bucket is read twice", None, script=_resumed, failures=1)


def _hanging(bench: Bench) -> None:
    bench.pace.read_timeout = 0.5
    bench.calls.fault(TABLE, "page", "slow", first=2, seconds=3.0)


def _split(bench: Bench) -> None:
    hunting("page", "too_large", first=2)(bench)
    before = bench.requests("hunting", match="SnapshotTime")
    bench.run()
    asked = bench.requests("hunting", match="SnapshotTime") - before
    if asked != BUCKETS + 2:
        raise AssertionError(f"{asked} calls read {BUCKETS} buckets, one of them in halves")


def _small_answers(bench: Bench) -> None:
    bench.limit(rows=50)
    bench.pace.row_cap = 50
    bench.run()


def _resumed(bench: Bench) -> None:
    scans = bench.tenant.source.scans
    scans.start()
    hunting("page", "server_error", first=4, times=None)(bench)
    bench.run()
    bench.calm()
    bench.run()
    scanned = scans.report()[TABLE]
    scans.stop()
    if scanned.most != 1 or scanned.distinct != bench.truth(TABLE).total():
        raise AssertionError(f"two runs read rows of one snapshot more than once, or not all: {scanned}")


def _loading() -> Iterator[Case]:
    put, post = {"method": "PUT"}, {"method": "POST"}
    for told, name in (("503", "server_busy"), ("reset", "reset"), ("SAS has expired", "expired_sas")):
        for what, method in (("upload", put), ("queue message", post)):
            yield case(f"{what}: {told}, on bucket 2", at("storage", name, first=2, **method))
            yield case(f"{what}: {told}, for ever", at("storage", name, times=None, **method), "loud")
    yield case("upload: reply lost", at("storage", "lost_reply", first=2, **put))
    yield case("queue message: reply lost", at("storage", "lost_reply", first=2, **post))
    refused = "not confirmed"
    yield case(
        "ingestion of a bucket fails after it was queued", worker("refused", first=2), "loud_then_exact", refused
    )
    every = worker("refused", times=BUCKETS)
    yield case("ingestion of every bucket fails after it was queued", every, "loud_then_exact", refused)
    yield case("ingestion is given up after tries", worker("given_up", first=2), "loud_then_exact", refused)
    yield case("ingestion fails for now, and is tried again", worker("transient_failure", first=2))
    yield case("every queue message is delivered twice", worker("twice", times=None))
    yield case("loaded, and the message comes again", worker("lost_reply", times=None))
    yield case("the worker dies between load and acknowledgement", worker("crash", first=2))
    yield case("the worker dies with nothing loaded", worker("crash_before", first=2))
    vanishes = worker("dropped", first=2, give_up=1.5)
    yield case("a message vanishes, which the service promises not to", vanishes, "loud_then_exact", refused)
    for told, seconds, drained in (("before", 3.0, True), ("during", 2.2, False), ("after", 9.0, False)):
        yield case(
            f"not confirmed in time, and loaded {told} the next run",
            worker("late", first=2, give_up=1.0, seconds=seconds),
            script=_gives_up(drained=drained),
            failures=1,
            says=refused,
        )
    yield case("data management: throttled for ever", at("ingest", "throttled", times=None), "loud")


def _gives_up(*, drained: bool) -> Act:
    def script(bench: Bench) -> None:
        bench.run()
        if drained:
            bench.drain()
        bench.pace.confirm_timeout = timedelta(seconds=20)
        bench.run()

    return script


def _state() -> Iterator[Case]:
    write, other = WRITES["ledger"], WRITES["audit"]
    for told, number in LEDGER_ROWS.items():
        for what, name in (("503, once", "unavailable"), ("reply lost", "lost_reply")):
            yield case(f"ledger, {told}: {what}", at("engine", name, write, first=number, without=other))
        for_ever = at("engine", "unavailable", write, first=number, times=None, without=other)
        yield case(f"ledger, {told}: 503 from there on", for_ever, "loud")
        # The row may be there although no reply says so: then what it publishes is served, and whole.
        lost = at("engine", "lost_reply", write, first=number, times=None, without=other)
        yield case(f"ledger, {told}: every reply lost from there on", lost, "loud", adds_up="no")
    for what in ("watermark", "audit"):
        without = "" if what == "audit" else other
        for told, name in (("503, once", "unavailable"), ("reply lost", "lost_reply")):
            yield case(f"write of the {what}: {told}", at("engine", name, WRITES[what], without=without))
    never = at("engine", "unavailable", WRITES["watermark"], times=None, without=other)
    yield case("write of the watermark: 503 for ever", never, "loud")
    never = at("engine", "unavailable", WRITES["audit"], times=None)
    yield case("write of the audit: 503 for ever", never, "loud", adds_up="no")
    for what, match in READS.items():
        yield case(f"read of the {what}: answer cut off", at("engine", "truncated_body", match))
        never = at("engine", "unavailable", match, times=None, without=other)
        yield case(f"read of the {what}: 503 for ever", never, "loud")
    for what in ("snapshots of the day", "slices of the snapshot", "count of the rows in ADX"):
        arm = at("engine", "partial", READS[what], keep=0.5)
        yield case(f"read of the {what}: partial", arm, script=_once_in_trouble)
    yield case("every query and command is throttled once in three", _one_in_three)
    yield case("the engine is gone", at("engine", "reset", times=None), "loud")


def _once_in_trouble(bench: Bench) -> None:
    bench.run()
    bench.calm()
    bench.run()


def _one_in_three(bench: Bench) -> None:
    bench.tenant.faults.add("engine", "throttled", times=None, probability=1 / 3, seed=11)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _defender()
    yield from _loading()
    yield from _state()
