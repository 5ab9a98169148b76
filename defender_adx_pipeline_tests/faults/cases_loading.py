"""What can happen to a blob between its upload and its rows in ADX, and to the rows afterwards."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.case import AGO, TABLE, Act, Case, Expect, some_rows
from defender_adx_pipeline_tests.faults.cases_late import MINUTE, add

GROUP = "loading"
RAW = f"{TABLE}Raw"
_LATE = add(30, ago=AGO - 2 * MINUTE, step=7 * MINUTE)


def worker(name: str, *, first: int = 1, times: int | None = 1, give_up: float | None = None, **own: Any) -> Act:
    """A named fault of the ingestion worker; `give_up`: seconds after which the attempt does not wait any more."""

    def arm(bench: Bench) -> None:
        if give_up is not None:
            bench.pace.confirm_timeout = timedelta(seconds=give_up)
        bench.tenant.faults.add("worker", name, match=RAW, first=first, times=times, **own)

    return arm


def at(service: str, name: str, match: str = "", *, first: int = 1, times: int | None = 1, **own: Any) -> Act:
    """A named fault of a service at requests with a text or a method."""

    def arm(bench: Bench) -> None:
        bench.tenant.faults.add(service, name, match=match, first=first, times=times, **own)  # type: ignore[arg-type]

    return arm


def _case(name: str, arm: Act | None, expect: Expect = "exact", says: str = "", **rest: Any) -> Case:
    return Case(name=name, group=GROUP, expect=expect, arm=arm, says=says, **rest)


def _worker() -> Iterator[Case]:
    yield _case("every queue message is delivered twice", worker("twice", times=None))
    yield _case("loaded, and the message comes again", worker("lost_reply", times=None))
    yield _case("every message is put back once", _each("put_back"))
    yield _case("the worker dies between load and acknowledgement", worker("crash", first=2))
    yield _case("the worker dies with nothing loaded", worker("crash_before", first=2))
    yield _case("the worker dies at every blob", _each("crash"))
    refused = "not confirmed"
    yield _case("ingestion fails for good after queueing", worker("refused", first=2), "loud_then_exact", refused)
    yield _case("ingestion of every blob fails for good", worker("refused", times=4), "loud_then_exact", refused)
    yield _case("ingestion fails for now, and is tried again", worker("transient_failure", first=2))
    yield _case("ingestion is given up after tries", worker("given_up", first=2), "loud_then_exact", refused)
    yield _case("every blob is loaded late", worker("late", times=None, seconds=1.5))
    gone = worker("dropped", first=2, give_up=1.5)
    yield _case("a message vanishes, which the service promises not to", gone, "loud_then_exact", refused)
    for told, seconds, drained in (("before", 3.0, True), ("during", 2.2, False), ("after", 9.0, False)):
        yield _case(
            f"loaded after the attempt gave up, {told} the next run",
            worker("late", first=2, give_up=1.0, seconds=seconds),
            script=_gives_up(drained=drained),
            failures=1,
            says=refused,
        )
    yield _case("an attempt gives up on all blobs, and they come during the next run", _hold, script=_held, failures=1)


def _each(name: str) -> Act:
    def arm(bench: Bench) -> None:
        for first in (1, 3, 5, 7):
            worker(name, first=first)(bench)

    return arm


def _gives_up(*, drained: bool) -> Act:
    def script(bench: Bench) -> None:
        bench.run()
        if drained:
            bench.drain()
        bench.pace.confirm_timeout = timedelta(seconds=20)
        bench.run()

    return script


def _hold(bench: Bench) -> None:
    bench.pace.confirm_timeout = timedelta(seconds=0.5)
    bench.hits += 1
    bench.tenant.worker.stop()


def _held(bench: Bench) -> None:
    bench.run()
    bench.pace.confirm_timeout = timedelta(seconds=20)
    wait = bench.start()
    bench.when(lambda: bench.requests("storage", "POST") > 4)
    bench.tenant.worker.start()
    wait()


def _storage() -> Iterator[Case]:
    put, post = {"method": "PUT"}, {"method": "POST"}
    for told, name in (
        ("503", "server_busy"),
        ("500", "internal_error"),
        ("reset", "reset"),
        ("HTML", "page"),
        ("SAS has expired", "expired_sas"),
    ):
        yield _case(f"upload: {told}, once", at("storage", name, first=2, **put))
        yield _case(f"upload: {told}, for ever", at("storage", name, times=None, **put), "loud")
        yield _case(f"queue message: {told}, once", at("storage", name, first=2, **post))
        yield _case(f"queue message: {told}, for ever", at("storage", name, times=None, **post), "loud")
    yield _case("upload: reply lost, once", at("storage", "lost_reply", first=2, **put))
    yield _case("upload: every reply lost", at("storage", "lost_reply", times=None, **put), "loud")
    yield _case("queue message: reply lost, once", at("storage", "lost_reply", first=2, **post))
    yield _case(
        "queue message: every reply lost",
        at("storage", "lost_reply", times=None, **post),
        script=_run_twice_in_trouble,
        failures=None,
    )


def _run_twice_in_trouble(bench: Bench) -> None:
    bench.run()
    bench.run()
    bench.calm()
    bench.run()


def _management() -> Iterator[Case]:
    for told, name in (
        ("throttled", "throttled"),
        ("503", "unavailable"),
        ("502", "bad_gateway"),
        ("reset", "reset"),
        ("truncated JSON", "truncated_json"),
        ("token has expired", "expired_token"),
    ):
        yield _case(f"data management: {told}, once", at("ingest", name, ".get"))
    yield _case("data management: throttled for ever", at("ingest", "throttled", times=None), "loud")
    yield _case("data management: gone for ever", at("ingest", "reset", times=None), "loud")


def _afterwards() -> Iterator[Case]:
    def then(*acts: Act) -> Act:
        def script(bench: Bench) -> None:
            bench.run()
            for act in acts:
                act(bench)
            bench.run()

        return script

    yield _case("tags are gone before the next run", None, script=then(_drop_tags), failures=0)
    yield _case("tags are gone, and late rows came", None, script=then(_drop_tags, _LATE), failures=0)
    yield _case(
        "an attempt gives up, its blob comes, and then its tag is gone",
        worker("late", first=2, give_up=1.0, seconds=3.0),
        script=then(Bench.drain, _drop_tags),  # type: ignore[arg-type]
        failures=1,
        adds_up="no",  # without its tag nobody can tell which attempt had loaded it
    )
    yield _case("all rows are removed from ADX", None, script=then(_purge(None)), failures=0, adds_up="no")
    yield _case("an extent is removed from ADX", None, script=then(_purge(1)), failures=0, adds_up="no")
    yield _case(
        "an extent is removed from ADX, and late rows came",
        None,
        script=then(_purge(1), _LATE),
        failures=0,
        adds_up="no",
    )
    yield _case(
        "a record above 1 MiB",
        None,
        "loud",
        "larger than the dynamic column",
        rows=_with_giant,
        lost=1,
    )
    bad = ".create-or-alter table DeviceLogonEventsRaw ingestion json mapping 'DynamicJsonMap'"
    yield _case(
        "the mapping was changed",
        None,
        "loud_then_exact",
        "DynamicJsonMap",
        rows=_with(f'{bad} \'[{{"column":"Records","path":"$.Elsewhere"}}]\''),
        between=lambda bench: bench.world.bootstrap(bench.tables),
    )
    yield _case(
        "the raw table was dropped",
        None,
        "loud_then_exact",
        "bootstrap",
        rows=_with(f".drop table {RAW}"),
        between=lambda bench: bench.world.bootstrap(bench.tables),
    )


def _with(command: str) -> Act:
    def rows(bench: Bench) -> None:
        some_rows(bench)
        bench.database.adx.command(command, idempotent=True)

    return rows


def _with_giant(bench: Bench) -> None:
    some_rows(bench)
    start = bench.world.now - AGO
    row = {
        "Timestamp": (start + 3 * MINUTE).isoformat(),
        **bench.world.key(TABLE, 99_999, start),
        "AdditionalFields": "x" * 1_200_000,
    }
    bench.tenant.source.insert_rows(TABLE, [row])


def _drop_tags(bench: Bench) -> None:
    bench.tenant.adx.drop_tags(RAW, lambda extent: extent.tags)


def _purge(extents: int | None) -> Act:
    def act(bench: Bench) -> None:
        ids = [extent.extent_id for extent in bench.tenant.adx.extents(RAW)]
        bench.tenant.adx.drop_extents(RAW, ids[:extents])

    return act


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _worker()
    yield from _storage()
    yield from _management()
    yield from _afterwards()
