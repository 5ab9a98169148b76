"""Two of the situations in which the older flow loses or doubles rows, in small; the pipeline does neither.

That the older flow fails them is also what shows that these cases can fail.
"""

import pytest

from benchmarks.older_flow import FAILED_CHUNK_COLUMNS, FAILED_CHUNKS
from defender_adx_pipeline_tests.conftest import OpenTenant, Statements
from defender_adx_pipeline_tests.faults.cases_peers import SITUATIONS, compared, facts

SCALE = 100
BY_NAME = {situation.name: situation for situation in SITUATIONS if situation.fault is not None}


@pytest.mark.parametrize(
    ("name", "lost_and_doubled", "audit"),
    [
        ("one 429 on page 2", (0, 50), "Success 300"),
        ("one 500 on chunk 2, then a second run", (250, 0), "Failed 850; the table is inactive"),
    ],
)
def test_the_pipeline_is_exact_where_the_older_flow_loses_or_doubles_rows(
    open_tenant: OpenTenant, statements: Statements, name: str, lost_and_doubled: tuple[int, int], audit: str
) -> None:
    lost, doubled = lost_and_doubled
    statements.add_table("adx", FAILED_CHUNKS, FAILED_CHUNK_COLUMNS)
    both = compared(BY_NAME[name], SCALE, open_tenant)
    older, pipeline = both.older_flow, both.pipeline
    assert (older.missing, older.duplicates, older.audit) == (lost, doubled, audit)
    assert (pipeline.loaded, pipeline.missing, pipeline.duplicates) == (pipeline.source_rows, 0, 0)
    assert pipeline.audit.startswith(f"Success {pipeline.source_rows:,}")
    assert facts([both]) == {
        "rows": 1,
        "ours": {"missing": 0, "duplicates": 0},
        "reference": {"missing": lost, "duplicates": doubled, "rows_with_losses": 1},
    }
