"""The statements that expand raw rows anew. What they do in a database: `migration/test_backfill`."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.adx.typed_backfill import (
    Ingested,
    Part,
    expand_anew,
    key_of,
    part_counts,
    time_bins,
    time_of,
)
from defender_adx_pipeline.adx.typed_tables import typed_columns
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable, load_catalogue
from defender_adx_pipeline_tests.conftest import Statements

CATALOGUE = load_catalogue()
SIGN_INS, NODES = CATALOGUE["EntraIdSignInEvents"], CATALOGUE["ExposureGraphNodes"]
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
DAY = timedelta(days=1)
INGESTED = Ingested(START + DAY, START + 3 * DAY, START + 9 * DAY)


@pytest.mark.parametrize("table", CATALOGUE.values(), ids=lambda table: table.name)
def test_every_table_can_be_cut_by_time_and_by_a_key_that_never_changes(
    table: DefenderTable, statements: Statements
) -> None:
    columns = typed_columns(table)
    key = key_of(table, columns)
    assert key[0] == time_of(table)
    assert len(key) > 1
    assert not set(key) & set(table.mutable_columns)
    bucket = Part(START, END, bucket=1, buckets=3, ingested=INGESTED)
    for part in (Part(START, END), bucket, Part(timeless=True), Part()):
        # Microsoft's parser reads what is recorded.
        statements.add("adx", expand_anew(table, part, key))
        statements.add("adx", part_counts(table, part, key))
        statements.add("adx", time_bins(table, part, timedelta(hours=1)))
    statements.add("adx", time_bins(table, None, timedelta(days=1)))


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


def conditions(ingested: Ingested | None) -> list[str]:
    """What a replacement, its proof and a count ask of the raw rows before their own time."""
    part = Part(START, END, ingested=ingested)
    texts = (expand_anew(SIGN_INS, part, ("Timestamp",)), part_counts(SIGN_INS, part, ("Timestamp",)))
    found = [re.findall(r"ExpandEntraIdSignInEvents\(\)\n((?:\| where (?!Timestamp).*\n)?)", text) for text in texts]
    found.append(
        re.findall(r"ExpandEntraIdSignInEvents\(\)\n((?:\| where (?!T).*\n)?)", time_bins(SIGN_INS, part, DAY))
    )
    return [condition.strip() for one in found for condition in one]


def test_raw_rows_are_looked_for_where_they_were_ingested_and_among_what_came_since() -> None:
    asked = (
        "| where ingestion_time() >= datetime(2026-11-02T00:00:00.000000Z)"
        " and (ingestion_time() < datetime(2026-11-04T00:00:00.000001Z)"
        " or ingestion_time() >= datetime(2026-11-10T00:00:00.000000Z))"
    )
    assert conditions(INGESTED) == [asked] * 3
    assert conditions(None) == [""] * 3


@pytest.mark.parametrize(
    ("first", "last", "bound"), [(-3, 0, "2026-11-07"), (-3, 5, "2026-11-07"), (2, 5, "2026-11-10")]
)
def test_recent_rows_need_no_upper_bound(first: int, last: int, bound: str) -> None:
    since = INGESTED.since
    recent = Ingested(since + first * DAY, since + last * DAY, since)
    assert conditions(recent) == [f"| where ingestion_time() >= datetime({bound}T00:00:00.000000Z)"] * 3


def test_the_typed_rows_that_go_are_not_told_by_their_ingestion_which_a_backfill_changes() -> None:
    text = expand_anew(SIGN_INS, Part(START, END, ingested=INGESTED), ("Timestamp",))
    (gone,) = re.findall(r"let Old = .*?;", text, re.DOTALL)
    assert "ingestion_time" not in gone


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
