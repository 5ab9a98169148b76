"""Snapshots of tables that change while they are read, of a day that was published, of other days, and odd tables.

Here: what the table or the caller does. Not here: what Defender and ADX answer (`cases_snapshots`).
"""

import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial, wraps
from itertools import count

from defender_adx_pipeline.catalogue import SNAPSHOT_TIME
from defender_adx_pipeline.instants import to_text, utc_now
from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.case import Act, Case
from defender_adx_pipeline_tests.faults.cases_snapshots import case as snapshot_case
from defender_adx_pipeline_tests.faults.cases_snapshots import hunting
from defender_adx_pipeline_tests.faults.launching import launched_run
from defender_adx_pipeline_tests.faults.snapshot_rows import (
    BUCKETS,
    RAW,
    ROWS,
    TABLE,
    at_call,
    change,
    come,
    execute,
    first_state,
    go,
    hidden,
    old_and_new,
    publish_yesterday,
    put,
    repeated,
)

GROUP = "snapshots of tables that change"
POOL = f"adx_{RAW}"
SMALL, TIMED = "DeviceTvmInfoGatheringKB", "DeviceTvmInfoGathering"
GIANT = 5_000

case = partial(snapshot_case, group=GROUP)


def all_of(*acts: Act) -> Act:
    """One thing after the other."""

    def act(bench: Bench) -> None:
        for one in acts:
            one(bench)

    return act


def run(bench: Bench) -> None:
    """A run, as an act."""
    bench.run()


def drift_is_told(bench: Bench) -> None:
    """The ledger has the rows before, read and after, as they were."""
    states, served = bench.snapshots.states(TABLE), bench.snapshots.served(TABLE)
    numbers = f"{states[0].total()} rows before, {served.rows.total()} read, {states[-1].total()} after"
    if numbers not in served.drift:
        raise AssertionError(f"the ledger does not say {numbers!r}: {served.drift!r}")
    if served.rows.total() in (states[0].total(), states[-1].total()):
        raise AssertionError("the case shows nothing: as many rows were read as were there at one moment")


def no_drift_is_told(bench: Bench) -> None:
    """The ledger has nothing of it."""
    drift = bench.snapshots.served(TABLE).drift
    if drift:
        raise AssertionError(f"nothing came or went, and the ledger says {drift!r}")


def _drift() -> Iterator[Case]:
    for place in (2, 3, BUCKETS):
        for told, act in (("rows come", come), ("rows go", go)):
            arm = at_call("page", place, act)
            script = all_of(run, drift_is_told, run)
            yield case(f"{told} before bucket {place}", arm, script=script, failures=0)
    both = at_call("page", 3, all_of(go, come, lambda bench: come(bench, range(1100, 1150))))
    yield case("rows come and go before bucket 3", both, script=all_of(run, drift_is_told), failures=0)
    changes = at_call("page", 3, change)
    yield case("all rows change before bucket 3", changes, script=all_of(run, no_drift_is_told), failures=0)
    yield case("one row comes before every bucket", _before_every_bucket, script=run, failures=0)
    late = at_call("count", 2, come)
    yield case("rows come between the last bucket and the count after", late, script=run, failures=0)
    early = at_call("page", 1, come)
    yield case("rows come between the count before and bucket 1", early, script=run, failures=0)
    resumed = all_of(at_call("page", 2, come), hunting("page", "server_error", first=3, times=None))
    yield case("rows come, the run fails, and go, before the next one goes on", resumed, script=_goes_on, failures=1)
    unseen = "a bucket gives a row too few"
    yield case(f"{unseen}, once", hidden(1), script=_noted, failures=0)
    yield case(f"{unseen}, for ever", hidden(99), "loud", "not what Defender counted", adds_up="yes")
    yield case("a bucket gives a row twice, once", repeated(1), script=_noted, failures=0)
    yield case("a bucket gives a row twice, for ever", repeated(99), "loud", "not what Defender counted")
    removed = at_call("count", 2, _remove_an_extent)
    yield case("rows are removed from ADX before they are counted", removed, script=run, failures=0, adds_up="no")
    doubled = at_call("count", 2, _double_a_row)
    yield case("a row is doubled in ADX before they are counted", doubled, script=run, failures=0, adds_up="no")


def _before_every_bucket(bench: Bench) -> None:
    numbers = count(1000)
    at_call("page", 1, lambda bench: come(bench, [next(numbers)]), times=BUCKETS)(bench)


def _goes_on(bench: Bench) -> None:
    bench.run()
    bench.calm()
    go(bench)
    bench.run()


def _noted(bench: Bench) -> None:
    """What does not agree is given up and taken anew, once, within the run."""
    bench.run()
    states = [row["State"] for row in bench.world.ledger(TABLE, "Snapshot")]
    if sorted(states) != ["Failed", "Published", "Published"]:
        raise AssertionError(f"one snapshot should be given up and one published besides yesterday's: {states}")


def _remove_an_extent(bench: Bench) -> None:
    bench.tenant.adx.drop_extents(RAW, [bench.tenant.adx.extents(RAW)[-1].extent_id])


def _double_a_row(bench: Bench) -> None:
    with bench.tenant.adx.transaction() as cursor:
        name = f'adx.data."{RAW}"'
        cursor.execute(f"INSERT INTO {name} SELECT * FROM {name} WHERE rowid = (SELECT max(rowid) FROM {name})")


def _days() -> Iterator[Case]:
    again = all_of(run, go, come, change, run, run)
    yield case("a published day is run again twice, after rows came, went and changed", None, script=again, failures=0)
    yield case("yesterday is asked for, and the state of today stays out", None, script=_another_day(-1), failures=1)
    yield case("tomorrow is asked for", None, script=_another_day(1), failures=1)
    empty = all_of(run, lambda bench: execute(bench, "DELETE FROM {table}"), run)
    yield case("the table falls to no rows", None, script=empty, failures=0)
    first = all_of(run, first_state, run)
    yield case("a table without rows from the start", None, rows=_no_rows, script=first, failures=0)
    filled = all_of(run, lambda bench: come(bench, range(ROWS)), run)
    yield case("the table has no rows, and then many", None, rows=_none_any_more, script=filled, failures=0)
    yield case(
        "a record above 1 MiB",
        None,
        "loud",
        "larger than the dynamic column",
        rows=_with_giant,
        between=lambda bench: execute(bench, f"DELETE FROM {{table}} WHERE {{number}} = {GIANT}"),
    )
    switched = all_of(_switch(False), run, _switch(True), run)
    yield case("the table is switched off", None, script=switched, failures=0)
    yield case("a column of the key appears between two runs of a snapshot", None, script=_key_appears, failures=1)
    tags = all_of(run, _drop_tags, run)
    yield case("tags are gone before the next run", None, script=tags, failures=0)
    for told, name in (("500", "server_error"), ("answer cut off", "truncated_body"), ("too large", "too_large")):
        arm = _small(name)
        yield case(f"a table of one call: {told}, on that call", arm, tables=(SMALL,), rows=_small_rows)
    comes = at_call("page", 1, _one_more, table=SMALL)
    yield case("a table of one call: a row comes after it was counted", comes, tables=(SMALL,), rows=_small_rows)
    yield case("rows with a time of their own, older than 30 days", None, tables=(TIMED,), rows=_old_times)


def _another_day(days: int) -> Act:
    def script(bench: Bench) -> None:
        day = (utc_now() + timedelta(days=days)).date().isoformat()
        before = bench.requests("hunting")
        ran = bench.run(first=day, last=day)
        if bench.requests("hunting") != before:
            raise AssertionError("Defender was asked for a state that nobody has")
        if "a snapshot can be taken of today" not in ran.message or "cannot be had any more" not in ran.message:
            raise AssertionError(f"it is not said why: {ran.message}")
        bench.run()

    return script


def _no_rows(bench: Bench) -> None:
    del bench


def _none_any_more(bench: Bench) -> None:
    old_and_new(bench)
    execute(bench, "DELETE FROM {table}")
    bench.snapshots.forget()


def _with_giant(bench: Bench) -> None:
    old_and_new(bench)
    key = bench.world.key(TABLE, GIANT, bench.world.now)
    bench.tenant.source.insert_rows(TABLE, [{**key, "ProductCodeCpe": "x" * 1_200_000}])


def _switch(is_active: bool) -> Act:
    def act(bench: Bench) -> None:
        bench.world.configure(TABLE, IsActive=is_active)

    return act


def _drop_tags(bench: Bench) -> None:
    bench.tenant.adx.drop_tags(RAW, lambda extent: extent.tags)


def _key_appears(bench: Bench) -> None:
    """Rows would be in other buckets than those that were read: the open snapshot cannot be gone on with."""
    source = bench.tenant.source
    source.rename_column(TABLE, "SoftwareVersion", "Elsewhere")
    try:
        hunting("page", "server_error", first=3, times=None)(bench)
        bench.run()
    finally:
        source.rename_column(TABLE, "Elsewhere", "SoftwareVersion")
    bench.calm()
    bench.snapshots.forget()
    bench.run()
    states = sorted(row["State"] for row in bench.world.ledger(TABLE, "Snapshot"))
    if states != ["Failed", "Published", "Published"]:
        raise AssertionError(f"the snapshot by the other key should be given up: {states}")


def _small(name: str) -> Act:
    def arm(bench: Bench) -> None:
        bench.calls.fault(SMALL, "page", name)

    return arm


def _small_rows(bench: Bench) -> None:
    put(bench, range(40), "old", table=SMALL)
    publish_yesterday(bench, SMALL)
    put(bench, range(40, 47), "new", table=SMALL)


def _one_more(bench: Bench) -> None:
    bench.snapshots.note(SMALL)
    put(bench, [99], "new", table=SMALL)
    bench.snapshots.note(SMALL)


def _old_times(bench: Bench) -> None:
    old = bench.world.now - timedelta(days=400)
    rows = [{"DeviceId": f"d{number}", "Timestamp": to_text(old + timedelta(days=number))} for number in range(200)]
    bench.tenant.source.insert_rows(TIMED, rows)


def _several() -> Iterator[Case]:
    rest = {"processes": True, "adds_up": "no"}
    for bucket in (1, 4):
        name = f"a second run begins and ends before bucket {bucket} is read, without a pool"
        yield case(name, None, script=_second(bucket), failures=None, **rest)
    yield case("a second run begins while blobs are on their way, without a pool", None, script=_held, **rest)


def _two_at_a_time(script: Act) -> Act:
    """The pool lets two runs work on the table."""

    @wraps(script)
    def run(bench: Bench) -> None:
        storage = bench.instance.event_log_storage
        storage.set_concurrency_slots(POOL, 2)
        try:
            script(bench)
        finally:
            storage.delete_concurrency_limit(POOL)

    return run


def _second(bucket: int) -> Act:
    """Another run in a process of its own begins and ends while the first one waits for a bucket."""

    @_two_at_a_time
    def script(bench: Bench) -> None:
        lock, seen = threading.Lock(), 0

        def before(query: str) -> None:
            nonlocal seen
            with lock:
                seen += SNAPSHOT_TIME in query
                due = SNAPSHOT_TIME in query and seen == bucket
            if due:
                bench.start(pipeline=launched_run)()

        bench.pace.read_timeout = 60.0
        forget = bench.tenant.source.before_queries(before)
        try:
            bench.run()
        finally:
            forget()
        bench.run()

    return script


@_two_at_a_time
def _held(bench: Bench) -> None:
    bench.tenant.worker.stop()
    others = [bench.start(pipeline=launched_run)]
    bench.when(lambda: bench.requests("storage", "POST") > 0, 30.0)
    others.append(bench.start())
    bench.when(lambda: bench.requests("storage", "POST") > BUCKETS, 30.0)
    bench.tenant.worker.start()
    for wait in others:
        wait()
    bench.run()


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _drift()
    yield from _days()
    yield from _several()
