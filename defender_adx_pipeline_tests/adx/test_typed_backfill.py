"""The statements that expand raw rows anew. What they do in a database: `migration/test_backfill`."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.adx.typed_backfill import Part, expand_anew, key_of, part_counts, time_bins, time_of
from defender_adx_pipeline.adx.typed_tables import typed_columns
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable, load_catalogue
from defender_adx_pipeline_tests.conftest import Statements

CATALOGUE = load_catalogue()
SIGN_INS, NODES = CATALOGUE["EntraIdSignInEvents"], CATALOGUE["ExposureGraphNodes"]
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize("table", CATALOGUE.values(), ids=lambda table: table.name)
def test_every_table_can_be_cut_by_time_and_by_a_key_that_never_changes(
    table: DefenderTable, statements: Statements
) -> None:
    columns = typed_columns(table)
    key = key_of(table, columns)
    assert key[0] == time_of(table)
    assert len(key) > 1
    assert not set(key) & set(table.mutable_columns)
    for part in (Part(START, END), Part(START, END, bucket=1, buckets=3), Part(timeless=True), Part()):
        # Microsoft's parser reads what is recorded.
        statements.add("adx", expand_anew(table, part, key))
        statements.add("adx", part_counts(table, part, key))
    statements.add("adx", time_bins(table, START, None, timedelta(hours=1)))


def test_the_rows_that_go_and_those_that_come_are_told_by_the_same_condition() -> None:
    text = expand_anew(SIGN_INS, Part(START, END, bucket=1, buckets=3), ("Timestamp", "RequestId"))
    gone, come = re.findall(r"let \w+ = \w+(?:\(\))?(.*?);", text, re.DOTALL)
    assert gone == come
    assert "| where Timestamp >= datetime(2026-11-01T00:00:00.000000Z) and Timestamp < datetime(2026-11-02" in gone
    assert '| where hash_xxhash64(strcat_delim("|", tostring(Timestamp), tostring(RequestId)), 3) == 1' in gone
    assert text.startswith(
        ".update table EntraIdSignInEvents delete Old append New <|\nlet Old = EntraIdSignInEvents\n"
    )
    assert "let New = ExpandEntraIdSignInEvents()\n" in text


def test_a_snapshot_goes_by_the_time_at_which_it_was_taken() -> None:
    assert time_of(NODES) == SNAPSHOT_TIME
    text = expand_anew(NODES, Part(timeless=True), (SNAPSHOT_TIME,))
    assert text.count("| where isnull(SnapshotTime)") == 2
    assert ".update table ExposureGraphNodesSnapshots " in text


def test_a_key_has_only_columns_that_the_table_has_and_whose_values_have_one_text() -> None:
    columns = [Column("Timestamp", "datetime"), Column("RequestId", "dynamic")]
    assert key_of(SIGN_INS, columns) == ("Timestamp",)


def test_a_part_is_named_as_a_person_reads_it() -> None:
    assert str(Part(START, END)) == "[2026-11-01T00:00:00Z, 2026-11-02T00:00:00Z)"
    assert str(Part(None, END, bucket=2, buckets=5)) == "[unbounded, 2026-11-02T00:00:00Z), bucket 2 of 5"
    assert str(Part(timeless=True)) == "the rows without a time"
