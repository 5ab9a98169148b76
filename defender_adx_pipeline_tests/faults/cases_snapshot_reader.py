"""A reader polls the latest view through runs with faults and kills: old or new, never a part.

Here: which runs. Not here: the reader and its verdict (`snapshot_reader`).
"""

from collections.abc import Iterator, Sequence
from itertools import count

from defender_adx_pipeline.migration.connections import adx_client
from defender_adx_pipeline.settings import load_settings
from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.case import Act, Case
from defender_adx_pipeline_tests.faults.cases_loading import at
from defender_adx_pipeline_tests.faults.cases_snapshot_kills import GROUP, kill
from defender_adx_pipeline_tests.faults.cases_snapshots import case, hunting, worker
from defender_adx_pipeline_tests.faults.cases_state import WRITES
from defender_adx_pipeline_tests.faults.snapshot_reader import Reader, state_of
from defender_adx_pipeline_tests.faults.snapshot_rows import first_state, hidden, move, publish_yesterday

POLLS = 1_000
_LEDGER = WRITES["ledger"]


def _run_with(arm: Act) -> Act:
    def act(bench: Bench) -> None:
        arm(bench)
        bench.run()
        bench.calm()

    return act


TROUBLES: Sequence[Act] = (
    _run_with(hunting("page", "server_error", first=3, times=None)),
    kill("bucket 3", "before"),
    _run_with(at("engine", "lost_reply", _LEDGER, first=4, times=None)),
    kill("the ledger, Queued", "after"),
    _run_with(hidden(1)),
    _run_with(worker("refused", first=2)),
    kill("the count in ADX", "before"),
    _run_with(worker("late", first=2, give_up=0.5, seconds=2.0)),
    kill("the ledger, Published", "before"),
    _run_with(hunting("count", "server_error", first=2, times=None)),
    kill("the ledger, Published", "after"),
    _run_with(at("engine", "unavailable", WRITES["watermark"], times=None, without=WRITES["audit"])),
    kill("the upload of bucket 2", "after"),
    _run_with(hunting("page", "too_large", first=2)),
)
"""Runs, most of which fail; none touches what the reader asks. After each one that nothing happens to."""


def read_through(bench: Bench, polls: int, troubles: Sequence[Act] = TROUBLES) -> Reader:
    """Take one state after the other, with trouble, until a reader has polled so often, and through all troubles.

    What Defender has at first is published.

    Raises:
        AssertionError: a poll has seen something else than one whole state, or none but the first.
    """
    with adx_client(load_settings()) as adx, Reader(adx, state_of(bench)) as reader:
        for number in count():
            if number >= len(troubles) and reader.polls >= polls:
                break
            move(bench, f"state {number}", number)
            reader.expect(state_of(bench))
            troubles[number % len(troubles)](bench)
            bench.run()
            reader.must_see_the_last()
    if reader.objections:
        raise AssertionError(f"{len(reader.objections)} of {reader.polls} polls: {reader.objections[:3]}")
    if reader.polls < polls or len(reader.by_state) < len(troubles) // 2:
        raise AssertionError(f"the reader polled {reader.polls} times and has seen {reader.by_state}")
    return reader


def _script(bench: Bench) -> None:
    bench.hits += read_through(bench, POLLS).polls


def rows(bench: Bench) -> None:
    """A state that is published, so that there is something to see."""
    first_state(bench)
    publish_yesterday(bench)


def cases() -> Iterator[Case]:
    """All of them: one."""
    yield case(
        f"a reader polls the latest view {POLLS:,} times through faults and kills",
        None,
        group=GROUP,
        rows=rows,
        script=_script,
        failures=None,
        processes=True,
        adds_up="no",
        whole=True,
    )
