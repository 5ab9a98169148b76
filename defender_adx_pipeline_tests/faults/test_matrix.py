"""A few cases of the matrix, and that its verdict can be bad: over a pipeline that loses, doubles or lies."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from defender_adx_pipeline.local.source import quoted
from defender_adx_pipeline_tests.conftest import OpenTenant, Statements
from defender_adx_pipeline_tests.faults import matrix
from defender_adx_pipeline_tests.faults.bench import Bench, dagster_run, open_bench
from defender_adx_pipeline_tests.faults.case import TABLE, Case

pytestmark = pytest.mark.long

RAW = f"adx.data.{quoted(f'{TABLE}Raw')}"
BY_NAME = {case.name: case for case in matrix.all_cases()}


@pytest.fixture(scope="module")
def bench(open_tenant: OpenTenant) -> Iterator[Bench]:
    with open_bench(opened=open_tenant) as bench:
        yield bench


@pytest.mark.parametrize(
    "name",
    [
        "429 of the minute, Retry-After, on page 2",
        "ingestion fails for good after queueing",
        "write of the audit: reply lost, once",
    ],
)
def test_a_fault_leaves_nothing_missing_and_nothing_doubled(bench: Bench, statements: Statements, name: str) -> None:
    verdict = matrix.played(bench, BY_NAME[name])
    statements.add_tenant(bench.tenant)
    assert (verdict.missing, verdict.duplicates, verdict.objections) == (0, 0, ())


def then(sql: str) -> Callable[..., tuple[bool, str]]:
    """The pipeline, and something that it does not tell."""

    def run(bench: Bench, tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]) -> tuple[bool, str]:
        ended = dagster_run(bench, tables, first, last, tags)
        with bench.tenant.adx.transaction() as cursor:
            cursor.execute(sql)
        return ended

    return run


@pytest.mark.parametrize(
    ("sql", "missing", "duplicates"),
    [
        (f"DELETE FROM {RAW} WHERE rowid = (SELECT min(rowid) FROM {RAW})", 1, 0),
        (f"INSERT INTO {RAW} SELECT * FROM {RAW} LIMIT 1", 0, 1),
    ],
    ids=["a row is lost", "a row is doubled"],
)
def test_a_pipeline_that_loses_or_doubles_a_row_is_found_out(
    bench: Bench, sql: str, missing: int, duplicates: int
) -> None:
    bench.pipeline = then(sql)
    try:
        verdict = matrix.played(bench, Case(name="a liar", group="none", script=lambda bench: bench.run() and None))
    finally:
        bench.pipeline = dagster_run
    assert (verdict.missing, verdict.duplicates) == (missing, duplicates)
    assert verdict.unexplained
