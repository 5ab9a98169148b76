"""The hunting queries give the same rows in Defender and in ADX.

Defender is asked by the hunting client, ADX by its own client over the typed tables, which the engine has filled. What
a side cannot run is listed with its reason: the list is wrong as soon as one of them runs, or another one does not.
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.adx.blobs import BlobBuilder
from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.typed_tables import typed_table_name
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.defender.wire import WireColumn, encode_record
from defender_adx_pipeline.local.data import add_state
from defender_adx_pipeline.local.data.generate import add_rows
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, bootstrapped_world
from defender_adx_pipeline_tests.queries.collection import HuntingQuery, hunting_queries

# Making and loading the tables is one long set-up.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

DAY = timedelta(days=1)
PATIENCE, POLL = timedelta(minutes=1), timedelta(milliseconds=50)
ROWS = 120
MORE_ROWS = {
    "DeviceEvents": 400,
    "DeviceFileEvents": 400,
    "DeviceImageLoadEvents": 300,
    "DeviceLogonEvents": 400,
    "DeviceNetworkEvents": 500,
    "DeviceProcessEvents": 500,
    "DeviceRegistryEvents": 300,
    "DeviceBaselineComplianceAssessment": 300,
    "DeviceTvmSecureConfigurationAssessment": 400,
    "DeviceTvmSoftwareInventory": 600,
    "DeviceTvmSoftwareVulnerabilities": 1200,
    "DeviceTvmSoftwareVulnerabilitiesKB": 1200,
    "EmailAttachmentInfo": 200,
    "EmailEvents": 300,
    "ExposureGraphEdges": 600,
    "ExposureGraphNodes": 300,
}
"""Rows of tables whose queries look for something that few rows have."""

CANNOT_RUN: Mapping[str, str] = {
    "addresses-of-a-range": "'function:ipv4_is_in_range'",
    "alerts-per-day": "'MakeSeriesOperator'",
    "bags-of-values": "'aggregate:make_bag'",
    "columns-of-a-bag": "'EvaluateOperator'",
    "events-before-a-detection": "Cannot mix values of type TIMESTAMP_NS and INTERVAL in BETWEEN",
    "events-of-a-program": "'let function:EventsOf'",
    "everything-of-an-account": "columns 'LogonId' and 'LogonID' differ only in case",
    "previous-logon": "'function:prev'",
    "private-or-public": "'function:ipv4_is_private'",
    "recent-of-a-table": "the translator gave up",
    "sampled-percentiles": "'aggregate:percentiles'",
    "sessions-of-devices": "'source:NamedFunctionCallExpression'",
    "three-most-frequent": "'TopNestedOperator'",
    "trend-of-events": "'MakeSeriesOperator'",
    "words-anywhere": "'source:SearchOperator'",
}
"""Queries that the local tenant's translator of KQL cannot run, and what it says. They bind all the same."""

RUN = [query for query in hunting_queries() if query.name not in CANNOT_RUN]


@pytest.fixture(scope="module")
def world(open_tenant: OpenTenant) -> Iterator[World]:
    """A tenant with rows in every table that a query reads, all of them loaded."""
    tables = sorted(frozenset().union(*(query.tables for query in RUN)))
    with bootstrapped_world(open_tenant, tables) as world, pytest.MonkeyPatch.context() as patch:
        # Signing in takes the tenant's certificate, which the environment names.
        for variable, value in world.tenant.environment().items():
            patch.setenv(variable, value)
        for name in tables:
            rows = MORE_ROWS.get(name, ROWS)
            if world.catalogue[name].kind == "snapshot":
                add_state(world.tenant.source, name, rows)
                assert world.sync(name) is not None
            else:
                # Far from both ends of the 30 days: each side takes its own moment for now.
                add_rows(world.tenant.source, name, rows, world.now - 28 * DAY, world.now - DAY / 12)
        load_events(world, [world.catalogue[name] for name in tables if world.catalogue[name].kind == "event"])
        for name in tables:
            counted = f"{typed_table_name(world.catalogue[name])} | count"
            assert world.adx.query(counted) == [{"Count": world.tenant.source.count_stored(name)}]
        yield world


def load_events(world: World, tables: Sequence[DefenderTable]) -> None:
    """All rows of event tables with the engine's reader and loader, each table in one slice.

    Planning, ledger and audit are left out: for so many tables they would take longer than all queries together.
    """
    queued = []
    for table in tables:
        dynamic = [column.name for column in table.columns if column.type == "dynamic"]
        assert table.time_column
        window = (world.now - 29 * DAY, world.now)
        kql = hunting.window_rows(table.name, table.time_column, *window, dynamic)
        with BlobBuilder(table.raw_table) as builder:
            for record in world.hunting.run(kql, tostring_columns=dynamic).rows:
                builder.add(encode_record(record))
            with builder.finish() as blob:
                queued.append((table, world.loader.queue(table.raw_table, uuid.uuid4().hex, blob)))
    for table, attempt in queued:
        confirmed = world.loader.confirm(table.raw_table, [attempt], timeout=PATIENCE, poll=POLL)
        assert confirmed.landed == {attempt.slice_id}


def asked_of_defender(world: World, query: HuntingQuery) -> tuple[Sequence[WireColumn], list[dict[str, Any]]]:
    answer = world.hunting.run(query.text, timespan=world.hunting.longest_timespan)
    return answer.columns, answer.rows


def comparable(value: Any, kind: str, *, ordered: bool) -> Any:
    """A value without what the two wire formats differ in by design."""
    match kind:
        case "String":
            # Hunting leaves a null out; a string is never null in Kusto.
            return value or ""
        case "DateTime":
            # Seven fractional digits here, as many as it takes there.
            return value and f"{value.rstrip('Z')}{'' if '.' in value else '.'}".rstrip("0")
        case "Object":
            # Graph writes a null dynamic as an empty bag.
            if isinstance(value, list) and not ordered:
                return sorted(map(_text, value))
            return None if value == {} else value
        case _:
            return value


def counted(rows: Sequence[Mapping[str, Any]], columns: Sequence[WireColumn], query: HuntingQuery) -> Counter[str]:
    # What order a set is made in is nobody's promise.
    ordered = "make_set" not in query.text
    return Counter(
        _text({one.name: comparable(row.get(one.name), one.type, ordered=ordered) for one in columns}) for row in rows
    )


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


@pytest.mark.parametrize("query", RUN, ids=lambda query: query.name)
def test_a_query_gives_the_same_rows_on_both_sides(world: World, query: HuntingQuery) -> None:
    columns, rows = asked_of_defender(world, query)
    there = world.adx.query(query.text)
    assert rows, "the tenant has no row that the query finds: choose another condition"
    assert list(there[0]) == [column.name for column in columns]
    assert counted(there, columns, query) == counted(rows, columns, query)


@pytest.mark.parametrize("name", sorted(CANNOT_RUN))
def test_a_query_that_is_listed_as_one_that_cannot_run_does_not(world: World, name: str) -> None:
    (query,) = (one for one in hunting_queries() if one.name == name)
    with pytest.raises(HuntingError, match="refused|does not know") as refused:
        asked_of_defender(world, query)
    with pytest.raises(AdxError) as failed:
        world.adx.query(query.text)
    assert CANNOT_RUN[name] in str(refused.value)
    assert CANNOT_RUN[name] in str(failed.value)


def test_a_value_that_differs_is_seen(world: World) -> None:
    (query,) = (one for one in RUN if one.name == "mail-items-accessed")
    columns, rows = asked_of_defender(world, query)
    before = counted(rows, columns, query)
    for column in columns:
        kept = rows[0].get(column.name)
        rows[0][column.name] = {"String": "x", "DateTime": "2026-01-01T00:00:00Z", "SByte": None}.get(column.type, -1)
        assert counted(rows, columns, query) != before, column
        rows[0][column.name] = kept


def test_the_queries_are_many_and_read_many_tables() -> None:
    queries = hunting_queries()
    assert len({query.name for query in queries}) == len(queries) >= 80
    assert len(frozenset().union(*(query.tables for query in queries))) >= 40
    assert len(RUN) >= 60
    assert CANNOT_RUN.keys() <= {query.name for query in queries}
    assert all(query.finds.endswith(".") for query in queries)
