"""ADX as the keeper of the state: ledger, audit log, configuration, and the counts that everything rests on."""

from collections.abc import Iterator
from typing import Any

from defender_adx_pipeline.adx.state_kql import AUDIT, CONFIGURATION, CONFIGURATION_VIEW, LEDGER, LEDGER_VIEW
from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.case import AGO, Act, Case, Expect
from defender_adx_pipeline_tests.faults.cases_late import MINUTE, add
from defender_adx_pipeline_tests.faults.cases_loading import at

GROUP = "state and ADX"
WRITES = {"ledger": f".append ['{LEDGER}']", "audit": f".append ['{AUDIT}']", "watermark": f".append {CONFIGURATION}"}
READS = {
    "configuration": f"{CONFIGURATION_VIEW}",
    "ledger": f"{LEDGER_VIEW}",
    "tags": "where Tags has_any",
    "count": "ingestion_time()",
    "failures": ".show ingestion failures",
}
ONCE = {
    "throttled": "throttled",
    "503": "unavailable",
    "502": "bad_gateway",
    "reset": "reset",
    "reply lost": "lost_reply",
    "answer cut off": "truncated_body",
    "truncated JSON": "truncated_json",
    "token has expired": "expired_token",
}


def _case(name: str, arm: Act, expect: Expect = "exact", says: str = "", **rest: Any) -> Case:
    return Case(name=name, group=GROUP, expect=expect, arm=arm, says=says, **rest)


def _writes() -> Iterator[Case]:
    for what in WRITES:
        for told, name in ONCE.items():
            yield _case(f"write of the {what}: {told}, once", _at_write(what, name))
        yield _case(f"write of the {what}: unavailable for ever", _at_write(what, "unavailable", times=None), "loud")
        yield _case(f"write of the {what}: throttled for ever", _at_write(what, "throttled", times=None), "loud")
        # What an audit row or a watermark says is there for whoever looks, with a reply or without.
        expect: Expect = {"audit": "exact", "watermark": "loud_then_exact"}.get(what, "loud")  # type: ignore[assignment]
        yield _case(f"write of the {what}: every reply lost", _at_write(what, "lost_reply", times=None), expect)
    for number, state in ((2, "Queued"), (3, "Confirmed"), (4, "Window")):
        yield _case(f"write of the ledger, {state}: reply lost", _at_write("ledger", "lost_reply", first=number))
        yield _case(
            f"write of the ledger, {state}: unavailable from there on",
            _at_write("ledger", "unavailable", first=number, times=None),
            "loud",
        )


def _at_write(what: str, name: str, **own: Any) -> Act:
    """A fault at a write; an audit row may quote the statement that failed, and is hit by its own faults only."""
    return at("engine", name, WRITES[what], without="" if what == "audit" else WRITES["audit"], **own)


def _reads() -> Iterator[Case]:
    for what, match in READS.items():
        yield _case(f"read of the {what}: throttled three times", at("engine", "throttled", match, times=3))
        yield _case(f"read of the {what}: 503, once", at("engine", "unavailable", match))
        yield _case(f"read of the {what}: answer cut off", at("engine", "truncated_body", match))
        # Nobody asks what failed once the tags are there.
        expect: Expect = "loud_then_exact" if what == "failures" else "loud"
        yield _case(f"read of the {what}: 503 for ever", at("engine", "unavailable", match, times=None), expect)
    for what in ("configuration", "ledger", "count"):
        for told, name in (("partial, in the rows", "partial"), ("partial, in the last frame", "partial_end")):
            for keep in (0.0, 0.5):
                arm = at("engine", name, READS[what], keep=keep)
                yield _case(f"read of the {what}: {told}, {keep:.0%} of it", arm, script=_once_in_trouble)
    yield _case(
        "count after the load: partial", at("engine", "partial", READS["count"], first=2), script=_once_in_trouble
    )
    for told, name in (("partial", "partial"), ("partial, in the last frame", "partial_end"), ("503", "unavailable")):
        yield Case(
            name=f"late rows are told from those in ADX, and the answer is {told}",
            group=GROUP,
            script=_read_back(name, 1),
            failures=None,
        )
    yield Case(
        name="late rows are told from those in ADX, and every answer is partial",
        group=GROUP,
        script=_read_back("partial", None),
        failures=1,
    )


def _once_in_trouble(bench: Bench) -> None:
    """A partial answer may be asked for again, or fail the run: either is explained if it is exact afterwards."""
    bench.run()
    bench.calm()
    bench.run()


def _read_back(name: str, times: int | None) -> Act:
    def script(bench: Bench) -> None:
        bench.run()
        add(30, ago=AGO - 2 * MINUTE, step=7 * MINUTE)(bench)
        at("engine", name, "project Record", times=times)(bench)
        bench.run()
        bench.calm()
        bench.run()

    return script


def _all() -> Iterator[Case]:
    yield _case("every query and command is throttled once in three", _one_in_three("throttled"))
    yield _case("every reply of the engine is lost once in four", _one_in_three("lost_reply", share=0.25))
    yield _case("the engine is gone", at("engine", "reset", times=None), "loud")
    yield _case("the engine is gone after the plan", at("engine", "reset", first=20, times=None), "loud")
    yield _case("the engine refuses the token for ever", at("engine", "expired_token", times=None), "loud")


def _one_in_three(name: str, share: float = 1 / 3) -> Act:
    def arm(bench: Bench) -> None:
        bench.tenant.faults.add("engine", name, times=None, probability=share, seed=11)

    return arm


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _writes()
    yield from _reads()
    yield from _all()
