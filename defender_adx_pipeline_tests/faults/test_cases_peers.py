"""Two of the situations in which the older flow loses or doubles rows, in small; the pipeline does neither.

That the older flow fails them on the same bench is also what shows that the bench can tell.
"""

from collections.abc import Iterator

import pytest

from benchmarks.older_flow import FAILED_CHUNK_COLUMNS, FAILED_CHUNKS
from defender_adx_pipeline_tests.conftest import OpenTenant, Statements
from defender_adx_pipeline_tests.faults.bench import Bench, open_bench
from defender_adx_pipeline_tests.faults.cases_peers import SITUATIONS, compared, facts

pytestmark = pytest.mark.long

SCALE = 100
BY_NAME = {situation.name: situation for situation in SITUATIONS}


@pytest.fixture(scope="module")
def bench(open_tenant: OpenTenant, statements: Statements) -> Iterator[Bench]:
    statements.add_table("adx", FAILED_CHUNKS, FAILED_CHUNK_COLUMNS)
    with open_bench(opened=open_tenant) as bench:
        yield bench


@pytest.mark.parametrize(
    ("name", "lost_and_doubled", "audit"),
    [
        ("one 429 on page 2", (0, 50), "Success 300"),
        ("500 on chunk 2, then a second run", (250, 0), "Failed 850; the table is inactive"),
    ],
)
def test_the_pipeline_is_exact_where_the_older_flow_loses_or_doubles_rows(
    bench: Bench, statements: Statements, name: str, lost_and_doubled: tuple[int, int], audit: str
) -> None:
    both = compared(bench, BY_NAME[name], SCALE)
    statements.add_tenant(bench.tenant)  # the bench empties the log before each flow
    lost, doubled = lost_and_doubled
    assert (both.older.missing, both.older.duplicates, both.older.audit) == (lost, doubled, audit)
    assert (both.ours.loaded, both.ours.objections) == (both.ours.source_rows, ())
    assert facts([both]) == {
        "rows": 1,
        "ours": {"missing": 0, "duplicates": 0, "unexplained": 0},
        "reference": {"missing": lost, "duplicates": doubled, "rows_with_losses": 1},
    }
