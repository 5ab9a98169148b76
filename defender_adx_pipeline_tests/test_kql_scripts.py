"""The scripts of kql/: that they are what the catalogue says, may be run again, and choose the right rows."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import duckdb_kql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.adx.generated import CONFIGURATION_COLUMNS, GENERATED
from defender_adx_pipeline.adx.kql import MAPPING
from defender_adx_pipeline.adx.scripts import Placeholders, Statement, kql_folder, statements
from defender_adx_pipeline.catalogue import load_catalogue

CATALOGUE = load_catalogue()
ALL = statements(
    Placeholders("defender", "11111111-1111-1111-1111-111111111111", "contoso.onmicrosoft.com"), typed=False
)
"""Those of the raw tables and of the state; `adx/test_typed_scripts.py` looks at those of the typed tables."""

# Each can be repeated without losing anything; `.append` is looked at more closely below.
IDEMPOTENT = (
    ".create-merge table ",
    ".create-merge tables",
    ".create-or-alter function ",
    ".create-or-alter table ",
    ".alter table ",
    ".alter tables ",
    ".add database ",
    ".append MigrationConfiguration ",
)


def statement(beginning: str) -> Statement:
    (found,) = (item for item in ALL if item.text.startswith(beginning))
    return found


def columns(beginning: str) -> list[tuple[str, str]]:
    return re.findall(r"^    (\w+): (\w+)", statement(beginning).text, re.MULTILINE)


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_script_is_what_the_catalogue_says(name: str) -> None:
    committed = (kql_folder() / name).read_text(encoding="utf-8")
    assert committed == GENERATED[name](tuple(CATALOGUE.values())), "run `make generated`"


@pytest.mark.parametrize("path", sorted(kql_folder().rglob("*.kql")), ids=lambda path: path.name)
def test_a_script_opens_by_saying_what_it_does_and_who_runs_it(path: Any) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"// {path.name[:2]} ")
    assert any(line.startswith("// Run by: ") for line in lines) or "Nothing is run from this file." in lines[0]
    assert max(map(len, lines)) <= 140 or path.name in GENERATED


@pytest.mark.parametrize("item", ALL, ids=lambda item: f"{item.file}:{item.line}")
def test_every_statement_may_be_run_again_and_is_filled_in(item: Statement) -> None:
    assert item.text.startswith(IDEMPOTENT)
    assert item.placeholders == ()
    assert item.role


def test_the_objects_of_the_older_script_have_its_names_types_and_order() -> None:
    assert columns(".create-merge table MigrationConfiguration ") == [
        ("SourceTable", "string"),
        ("DestinationTable", "string"),
        ("WatermarkColumn", "string"),
        ("LastRefreshedTime", "datetime"),
        ("LastRefreshedTimeInString", "string"),
        ("LoadType", "string"),
        ("IsActive", "bool"),
    ]
    assert columns(".create-merge table MigrationConfiguration ") == list(CONFIGURATION_COLUMNS.items())
    assert columns(".create-merge table MigrationAuditLog ") == [
        ("TableName", "string"),
        ("Timestamp", "datetime"),
        ("Status", "string"),
        ("FailureReason", "string"),
        ("RecordCount", "int"),
    ]


def test_every_table_of_the_catalogue_has_a_raw_table_with_its_mapping_and_keeps_its_tags() -> None:
    raw = [
        name
        for item in ALL
        if item.file.startswith("20_")
        for name in re.findall(r"^    (\w+) \(Records: dynamic\)", item.text, re.MULTILINE)
    ]
    assert sorted(raw) == sorted(table.raw_table for table in CATALOGUE.values())
    assert len(raw) == 65
    texts = {item.text for item in ALL}
    for table in raw:
        path = '[{"column":"Records","Properties":{"Path":"$"}}]'
        assert f".create-or-alter table {table} ingestion json mapping \"{MAPPING}\" '{path}'" in texts
        tags = '[{"TagPrefix":"ingest-by:","RetentionPeriod":"45.00:00:00"}]'
        assert f".alter table {table} policy extent_tags_retention ```{tags}```" in texts


def test_every_table_gets_an_active_configuration_row_by_which_it_is_loaded_from_the_beginning() -> None:
    rows = re.findall(r"^    (\".+), (true|false),?$", statement(".append ").text, re.MULTILINE)
    assert len(rows) == len(CATALOGUE) == 65
    for table, (row, active) in zip(CATALOGUE.values(), rows, strict=True):
        # Snapshot tables have no watermark column, also those two whose records have a time.
        column, load = ("None", "Full") if table.kind == "snapshot" else (table.time_column, "Incr")
        time = f'datetime(1900-01-01), "1900-01-01T00:00:00.0000000Z", "{load}"'
        assert row == f'"{table.name}", "{table.raw_table}", "{column}", {time}'
        assert active == "true"


def test_only_the_roles_script_grants_and_it_names_the_three_roles_that_the_pipeline_runs_with() -> None:
    grants = [item for item in ALL if item.text.startswith(".add ")]
    assert {item.file for item in grants} == {"30_roles.kql"}
    found = [re.match(r"\.add database \['defender'\] (\w+) \('aadapp=([^']+)'\)", item.text) for item in grants]
    assert [match and match[1] for match in found] == ["viewers", "ingestors", "users", "monitors"]
    assert {match and match[2] for match in found} == {"11111111-1111-1111-1111-111111111111;contoso.onmicrosoft.com"}


# --- which ledger row is in force ----------------------------------------------------------------

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)
STATES = ("Planned", "Queued", "Failed", "Confirmed", "Published")
LEDGER = re.findall(r"^    (\w+): (\w+)", statement(".create-merge table MigrationLedger ").text, re.MULTILINE)
DUCK = {"string": "VARCHAR", "datetime": "TIMESTAMP", "int": "INTEGER", "long": "BIGINT", "real": "DOUBLE"}

Row = tuple[str, str, int | None, datetime]

rows_of_slices = st.lists(
    st.tuples(
        st.sampled_from(["slice one", "slice two"]),
        st.sampled_from(STATES),
        st.none() | st.integers(1, 12),
        # Few different times, so that ties are common.
        st.integers(0, 3).map(lambda hours: NOON + timedelta(hours=hours)),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def ledger() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE MigrationLedger ({', '.join(f'{name} {DUCK[kind]}' for name, kind in LEDGER)})"
        )
        yield connection


def in_force(connection: duckdb.DuckDBPyConnection, rows: list[Row]) -> dict[str, tuple[str, int | None, datetime]]:
    """What VwLatestMigrationLedger says of these rows."""
    connection.execute("DELETE FROM MigrationLedger")
    connection.executemany(
        "INSERT INTO MigrationLedger (SourceTable, SliceId, State, Attempt, RecordedAt) VALUES ('T', ?, ?, ?, ?)",
        [(slice_id, state, attempt, time.replace(tzinfo=None)) for slice_id, state, attempt, time in rows],
    )
    text = statement('.create-or-alter function with (folder = "Migration", docstring = "The row in force').text
    body = text[text.index("{") + 1 : text.rindex("}")]
    found = duckdb_kql.query(connection, body)
    position = {name: index for index, name in enumerate(found.columns)}
    picked = {
        row[position["SliceId"]]: (row[position["State"]], row[position["Attempt"]], row[position["RecordedAt"]])
        for row in found.fetchall()
    }
    assert list(found.columns) == [name for name, _ in LEDGER]
    return picked


def expected(rows: list[Row]) -> dict[str, tuple[str, int | None, datetime]]:
    """The same, told in Python: final states first, then the attempt, then how far it is, then the time."""

    def progress(row: Row) -> tuple[int, int, int, datetime]:
        _, state, attempt, time = row
        final = {"Published": 2, "Confirmed": 1}.get(state, 0)
        return final, attempt or 0, {"Failed": 2, "Queued": 1}.get(state, 0), time

    best: dict[str, Row] = {}
    for row in rows:
        if row[0] not in best or progress(row) > progress(best[row[0]]):
            best[row[0]] = row
    return {slice_id: (state, attempt, time.replace(tzinfo=None)) for slice_id, state, attempt, time in best.values()}


@settings(max_examples=40, deadline=None)
@given(rows=rows_of_slices)
def test_the_ledger_row_in_force_does_not_depend_on_the_order_in_which_rows_arrived(
    ledger: duckdb.DuckDBPyConnection, rows: list[Row]
) -> None:
    forward = in_force(ledger, rows)
    wanted = expected(rows)
    # A null attempt counts as 0: two rows that differ only in that are equal otherwise, and either may be taken.
    assert {key: (state, attempt or 0, time) for key, (state, attempt, time) in forward.items()} == {
        key: (state, attempt or 0, time) for key, (state, attempt, time) in wanted.items()
    }


def test_a_late_row_of_an_earlier_attempt_does_not_undo_a_confirmed_slice(ledger: duckdb.DuckDBPyConnection) -> None:
    late = NOON + timedelta(hours=3)
    rows: list[Row] = [("a", "Confirmed", 1, NOON), ("a", "Queued", 2, late), ("a", "Failed", 2, late)]
    assert in_force(ledger, rows)["a"][0] == "Confirmed"


def test_a_new_attempt_counts_more_than_the_failure_before_it(ledger: duckdb.DuckDBPyConnection) -> None:
    rows: list[Row] = [("a", "Failed", 1, NOON + timedelta(hours=1)), ("a", "Planned", 2, NOON)]
    assert in_force(ledger, rows)["a"][:2] == ("Planned", 2)
