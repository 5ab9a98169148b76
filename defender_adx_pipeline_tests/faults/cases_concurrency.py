"""Several runs over the same rows, and a table that is switched off.

Of runs at the same time one is in this process: Dagster sets up logging anew for each, which threads cannot do at once.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from defender_adx_pipeline.defs.assets import TICK
from defender_adx_pipeline.defs.launch import event_tables
from defender_adx_pipeline_tests.faults.bench import Bench, dagster_run
from defender_adx_pipeline_tests.faults.calls import Trigger
from defender_adx_pipeline_tests.faults.case import AGO, TABLE, Act, AddsUp, Case, some_rows
from defender_adx_pipeline_tests.faults.cases_late import MINUTE, add
from defender_adx_pipeline_tests.faults.launching import LABEL, launched_run

GROUP = "several runs"
POOL = f"adx_{TABLE}Raw"


def _at_once(count: int, *, pool: int, scope: str | None = None) -> Act:
    """Runs that begin together, `pool` of them allowed to work on the table at a time; the last has `scope`."""

    def script(bench: Bench) -> None:
        storage = bench.instance.event_log_storage
        storage.set_concurrency_slots(POOL, pool)
        try:
            others = [bench.start(pipeline=launched_run) for _ in range(count - 1)]
            # The processes take seconds to begin.
            bench.when(lambda: bench.requests("hunting") > 0)
            bench.run(scope=scope)
            for wait in others:
                wait()
        finally:
            storage.delete_concurrency_limit(POOL)
        bench.run()

    return script


def _while_loading(bench: Bench) -> None:
    """A second run that begins when the first one has queued a blob, with late rows between the two."""
    bench.instance.event_log_storage.set_concurrency_slots(POOL, 2)
    try:
        first = bench.start(pipeline=launched_run)
        bench.when(lambda: bench.requests("storage", "POST") > 0)
        add(30, ago=AGO - 2 * MINUTE, step=7 * MINUTE)(bench)
        bench.run()
        first()
    finally:
        bench.instance.event_log_storage.delete_concurrency_limit(POOL)
    bench.run()


def _retried(bench: Bench, tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]) -> tuple[bool, str]:
    """Dagster's own retry of the failed run: of its failed step, in processes of its own."""
    (failed,) = bench.instance.get_runs(filters=dg.RunsFilter(tags={LABEL: bench.label}))
    result = dg.execute_job(
        dg.reconstructable(event_tables),
        instance=bench.instance,
        # As the daemon and the UI do; this function would leave out the partitions.
        tags={name: value for name, value in failed.tags.items() if not name.startswith(".dagster/")},
        reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, bench.instance),
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    return result.success, "" if result.success else "the retry fails"


def _retry(bench: Bench) -> None:
    bench.run(pipeline=dagster_run)
    bench.calm()
    bench.run(pipeline=_retried)
    bench.run()


def _reads_in_vain(bench: Bench) -> None:
    bench.calls.fault(TABLE, "page", "server_error", first=3, times=None)


def _switch(is_active: bool) -> Act:
    def act(bench: Bench) -> None:
        bench.world.configure(TABLE, IsActive=is_active)

    return act


def _off(bench: Bench) -> None:
    some_rows(bench)
    _switch(False)(bench)


def _off_meanwhile(bench: Bench) -> Trigger:
    return bench.calls.add(TABLE, "page", lambda: _switch(False)(bench), first=2)


def _stays_off(bench: Bench) -> None:
    bench.run()
    add(20, ago=AGO - 2 * MINUTE, step=7 * MINUTE)(bench)
    there = bench.run().rows_there
    if there != bench.runs[0].rows_there:
        raise AssertionError("the run over the table that was switched off loads rows")
    _switch(True)(bench)
    bench.run()


def cases() -> Iterator[Case]:
    """All of them."""
    for name, script in (
        ("two runs at once, and the pool keeps them apart", _at_once(2, pool=1)),
        ("two runs at once without a pool", _at_once(2, pool=2)),
        ("four runs at once without a pool", _at_once(4, pool=4)),
        ("a tick during a backfill, and the pool keeps them apart", _at_once(2, pool=1, scope=TICK)),
        ("a tick during a backfill without a pool", _at_once(2, pool=2, scope=TICK)),
        ("late rows come, and a second run begins, while the first one's blobs are on their way", _while_loading),
    ):
        # Without a pool a run may see the other's slices five times over, and step back with an error that says so.
        adds_up: AddsUp = "at least" if "without a pool" in name else "yes"
        yield Case(name=name, group=GROUP, script=script, failures=None, processes=True, adds_up=adds_up)
    yield Case(
        name="a run fails in the middle, and Dagster retries it from the failure",
        group=GROUP,
        arm=_reads_in_vain,
        script=_retry,
        failures=1,
        processes=True,
    )
    yield Case(name="the table is switched off", group=GROUP, rows=_off, expect="skipped", between=_switch(True))
    yield Case(
        name="the table is switched off while it is loaded",
        group=GROUP,
        arm=lambda bench: _off_meanwhile(bench) and None,
        script=_stays_off,
        failures=0,
    )
