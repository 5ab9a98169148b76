"""One of the cases of snapshots, a reader through some runs, and that the verdict over a snapshot can be bad."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from defender_adx_pipeline_tests.conftest import OpenTenant, Statements
from defender_adx_pipeline_tests.faults import cases_snapshot_days, cases_snapshot_reader, cases_snapshots, matrix
from defender_adx_pipeline_tests.faults.bench import Bench, dagster_run, open_bench
from defender_adx_pipeline_tests.faults.cases_snapshot_reader import read_through
from defender_adx_pipeline_tests.faults.snapshot_rows import RAW

pytestmark = pytest.mark.long

BY_NAME = {case.name: case for case in cases_snapshot_days.cases()}
LATEST = f"(SELECT max(CAST(Records->>'SnapshotTime' AS VARCHAR)) FROM adx.data.\"{RAW}\")"
OF_LATEST = f"CAST(Records->>'SnapshotTime' AS VARCHAR) = {LATEST}"
OF_ONE = f"{OF_LATEST} AND Records->>'DeviceId' LIKE '% 100 %'"


POLLS = 20


@pytest.fixture(scope="module")
def bench(open_tenant: OpenTenant) -> Iterator[Bench]:
    with open_bench(opened=open_tenant) as bench:
        yield bench


def test_a_table_that_changes_while_it_is_read_is_served_whole_with_its_drift(
    bench: Bench, statements: Statements
) -> None:
    verdict = matrix.played(bench, BY_NAME["rows come and go before bucket 3"])
    statements.add_tenant(bench.tenant)
    assert (verdict.missing, verdict.duplicates, verdict.objections) == (0, 0, ())


def test_a_reader_sees_one_whole_state_at_every_poll(bench: Bench, statements: Statements) -> None:
    bench.reset((cases_snapshots.TABLE,))
    cases_snapshot_reader.rows(bench)
    reader = read_through(bench, POLLS, [fails_between_buckets])
    statements.add_tenant(bench.tenant)
    assert reader.polls >= POLLS
    assert len(reader.by_state) > 1


def fails_between_buckets(bench: Bench) -> None:
    """A run that leaves a part of a snapshot in ADX."""
    cases_snapshots.hunting("page", "server_error", first=3, times=None)(bench)
    assert not bench.run().success
    bench.calm()


def spoilt(sql: str) -> object:
    """The pipeline, and something that it does not tell."""

    def run(bench: Bench, tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]) -> tuple[bool, str]:
        ended = dagster_run(bench, tables, first, last, tags)
        with bench.tenant.adx.transaction() as cursor:
            cursor.execute(sql)
        return ended

    return run


@pytest.mark.parametrize(
    ("sql", "missing", "duplicates", "objection"),
    [
        (f'DELETE FROM adx.data."{RAW}" WHERE {OF_ONE}', 1, 0, "ledger"),
        (f'INSERT INTO adx.data."{RAW}" SELECT * FROM adx.data."{RAW}" WHERE {OF_LATEST} LIMIT 1', 0, 1, "ledger"),
        (
            f"UPDATE adx.data.\"{RAW}\" SET Records = replace(CAST(Records AS VARCHAR), 'new', 'old') WHERE {OF_ONE}",
            1,
            1,
            "are missing and 1 are too many",
        ),
    ],
    ids=["a row is lost", "a row is doubled", "a row of the old state is among the new ones"],
)
def test_a_snapshot_that_is_not_whole_is_found_out(
    bench: Bench, sql: str, missing: int, duplicates: int, objection: str
) -> None:
    bench.pipeline = spoilt(sql)  # type: ignore[assignment]
    try:
        case = cases_snapshots.case("a liar", None, script=lambda bench: bench.run() and None, failures=0)
        verdict = matrix.played(bench, case)
    finally:
        bench.pipeline = dagster_run
    assert (verdict.missing, verdict.duplicates) == (missing, duplicates)
    assert any(objection in text for text in verdict.objections), verdict.objections
