"""Typed tables in a local tenant: what the loader puts into a raw table arrives in the typed one, value for value."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.adx import kql, snapshot_kql
from defender_adx_pipeline.adx.blobs import BlobBuilder
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.ingestion import Confirmation, SliceLoader
from defender_adx_pipeline.adx.schema import bootstrap, inspect
from defender_adx_pipeline.adx.typed_checks import ROWS, count_names, unfit_counts, unfit_records
from defender_adx_pipeline.adx.typed_schema import columns_of, existing_columns
from defender_adx_pipeline.adx.typed_tables import expand_function, typed_columns, typed_table_name
from defender_adx_pipeline.catalogue import Column, DefenderTable, load_catalogue
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline_tests.adx.conftest import slice_id
from defender_adx_pipeline_tests.conftest import OpenTenant

CATALOGUE = load_catalogue()
PROCESSES, CLOUD, AGENTS, SIGN_INS = (
    CATALOGUE[name] for name in ("DeviceProcessEvents", "CloudAppEvents", "AIAgentsInfo", "EntraIdSignInEvents")
)
KNOWN = CATALOGUE["DeviceTvmSoftwareVulnerabilitiesKB"]
TABLES = (PROCESSES, CLOUD, AGENTS, SIGN_INS, KNOWN)
PATIENCE, POLL = timedelta(seconds=30), timedelta(milliseconds=50)

Record = dict[str, Any]

VALUES: Mapping[str, Sequence[Any]] = {
    "string": ['{"k": [1, null]}', "2026-08-01T00:00:00Z", "007", "é \u2028 \\ \" 'x'] | .drop table y //", " "],
    "datetime": ["2026-08-01T01:02:03.1234567Z", "2026-08-01T01:02:03Z", "1999-12-31T23:59:59.9999999Z"],
    "long": [9007199254740993, -9223372036854775807, 9223372036854775807, 0],
    "int": [2147483647, -2147483648, 0],
    "real": [9.8, -0.5, 3.0, 1e300],
    "bool": [True, False],
    "guid": ["6f9619ff-8b86-d011-b42d-00c04fc964ff"],
    "dynamic": [{"a": [1, "x", {"b": 2.5}]}, ['{"not": "parsed"}'], 5, "5", "2026-08-01", True],
}
"""Values of each type that must come through as they are."""


@pytest.fixture(scope="module")
def adx(open_tenant: OpenTenant) -> Iterator[AdxClient]:
    """A database with the typed tables of a few Defender tables and no row."""
    with open_tenant(scale=0, batching_delay=0.0) as tenant:
        environment = tenant.environment()
        address = (environment["ADX_CLUSTER_URI"], environment["ADX_DATABASE"])
        with AdxClient(*address, ingest_uri=environment["ADX_INGEST_URI"]) as client:
            report = bootstrap(client, client_id=None, tenant_id=None, grants=False, tables=TABLES)
            assert {item.file[:2] for item in report.applied} >= {"50", "51", "52", "53", "54", "55"}
            # Nobody said how long rows are kept, and without a role the pipeline could not read a restricted table.
            assert {item.file[:2] for item in report.skipped} >= {"55", "30"}
            yield client


def load(adx: AdxClient, table: DefenderTable, records: Sequence[Record], ours: str | None = None) -> Confirmation:
    """Load records as the pipeline does, and wait for them."""
    with SliceLoader(adx) as loader, BlobBuilder(table.raw_table) as builder:
        for record in records:
            builder.add(json.dumps(record, ensure_ascii=False).encode())
        with builder.finish() as blob:
            queued = loader.queue(table.raw_table, ours or slice_id(), blob)
        return loader.confirm(table.raw_table, [queued], timeout=PATIENCE, poll=POLL)


def sample(table: DefenderTable, number: int, **given: Any) -> Record:
    """A record with a value in every column but each fourth one; which ones and which values goes by the number."""
    record: Record = {}
    for place, column in enumerate(held(table)):
        if (place + number) % 4:
            values = VALUES[column.type]
            record[column.name] = values[(place + number) % len(values)]
    return record | given


def held(table: DefenderTable) -> list[Column]:
    """Columns of a typed table; of two whose names differ in case alone the first, as the local tenant holds them."""
    found: dict[str, Column] = {}
    for column in typed_columns(table):
        found.setdefault(column.name.casefold(), column)
    return list(found.values())


def typed(column: Column, record: Record) -> Any:
    """What the typed table must have of a record that fits."""
    value = record.get(column.name)
    if column.type == "string":
        return "" if value is None else value
    if column.type == "datetime" and value is not None:
        # Without trailing zeros, as the service prints it.
        return value if "." not in value else value[:-1].rstrip("0").rstrip(".") + "Z"
    return value


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [PROCESSES, CLOUD, AGENTS, SIGN_INS, KNOWN], ids=lambda table: table.name)
def test_every_field_of_the_typed_row_is_that_of_the_raw_record(adx: AdxClient, table: DefenderTable) -> None:
    key = next(column.name for column in table.columns if column.type == "string")
    records = [sample(table, number, **{key: f"{number}"}) for number in range(12)]
    ours = slice_id()
    assert load(adx, table, records, ours).landed == {ours}
    rows = adx.query(f"{typed_table_name(table)} | order by toint({key}) asc")
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert row == {column.name: typed(column, record) for column in held(table)}
    # Raw and typed tell the same slice by its tag.
    tags = {row["Tags"] for row in adx.command(f".show table {typed_table_name(table)} extents", idempotent=True)}
    assert tags == {f"ingest-by:{ours}"}
    (counts,) = adx.query(unfit_counts(table))
    assert counts.pop(ROWS) == len(records)
    assert set(counts.values()) <= {0}


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(-(2**63), 2**63 - 1),
    ticks=st.integers(0, 10**7 - 1),
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    bag=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("ab\\\"'"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_whatever_fits_comes_through(adx: AdxClient, number: int, ticks: int, text: str, bag: Any) -> None:
    report = uuid.uuid4().hex
    record = {"ReportId": report, "ApplicationId": number % 2**31, "ObjectName": text, "RawEventData": {"in": bag}}
    record["Timestamp"] = f"2026-08-01T00:00:00.{ticks:07d}Z"
    load(adx, CLOUD, [record])
    (row,) = adx.query(f'CloudAppEvents | where ReportId == "{report}"')
    for name, kind in (("Timestamp", "datetime"), ("ApplicationId", "int"), ("ObjectName", "string")):
        assert row[name] == typed(Column(name, kind), record)
    assert row["RawEventData"] == {"in": bag}


def test_a_value_that_does_not_fit_is_null_and_counted_and_still_in_the_raw_table(adx: AdxClient) -> None:
    unfit = {
        "Timestamp": "yesterday",
        "ErrorCode": 5_000_000_000,
        "RiskState": "high",
        "IsGuestUser": "perhaps",
        "LastPasswordChangeTimestamp": "2026-13-01T00:00:00Z",
        "RiskDetails": 1.5,
    }
    # What an older script may have loaded: null of a value type as Graph writes it.
    nothing = {"ErrorCode": {}, "IsGuestUser": None, "RiskState": ""}
    before = adx.query(unfit_counts(SIGN_INS))[0]
    load(adx, SIGN_INS, [{**unfit, "RequestId": "unfit"}, {**nothing, "RequestId": "nothing"}])
    (row,) = adx.query('EntraIdSignInEvents | where RequestId == "unfit"')
    assert {name: row[name] for name in unfit} == dict.fromkeys(unfit)
    (counts,) = adx.query(unfit_counts(SIGN_INS))
    assert list(counts) == [ROWS, *count_names(SIGN_INS)]
    assert counts[ROWS] == before[ROWS] + 2
    assert {name: count for name, count in counts.items() if name != ROWS and count} == dict.fromkeys(unfit, 1)
    (shown,) = adx.query(unfit_records(SIGN_INS, "ErrorCode"))
    assert shown["Value"] == "5000000000"
    assert shown["Records"]["RequestId"] == "unfit"
    later = datetime.now(UTC) + timedelta(hours=1)
    assert adx.query(unfit_counts(SIGN_INS, later))[0][ROWS] == 0


# --- transaction --------------------------------------------------------------------------------


def test_an_expand_function_that_no_longer_fits_its_table_lets_nothing_in(adx: AdxClient) -> None:
    before = (adx.query("AIAgentsInfoRaw | count"), adx.query("AIAgentsInfo | count"))
    adx.command(".create-merge table AIAgentsInfo (AddedLater: string)", idempotent=True)
    ours = slice_id()
    result = load(adx, AGENTS, [sample(AGENTS, 1)], ours)
    assert result.landed == set()
    assert "UpdatePolicy_QuerySchemaDoesNotMatchTableSchema" in str(result)
    assert (adx.query("AIAgentsInfoRaw | count"), adx.query("AIAgentsInfo | count")) == before
    # The function made anew for the columns that the table has, and the same slice again.
    existing = [Column(str(row["ColumnName"]), str(row["ColumnType"])) for row in adx.query("AIAgentsInfo | getschema")]
    adx.command(expand_function(AGENTS, existing), idempotent=True)
    record = sample(AGENTS, 1, AddedLater="so it goes on")
    assert load(adx, AGENTS, [record], ours).landed == {ours}
    assert [row["AddedLater"] for row in adx.query('AIAgentsInfo | where AddedLater != ""')] == ["so it goes on"]


# --- snapshots ----------------------------------------------------------------------------------


def publish(adx: AdxClient, moment: datetime, state: str) -> None:
    """The ledger row of a snapshot."""
    columns = [
        (str(row["ColumnName"]), str(row["ColumnType"])) for row in adx.query(kql.table_columns("MigrationLedger"))
    ]
    row = {
        "SourceTable": KNOWN.name,
        "DestinationTable": KNOWN.raw_table,
        "SliceId": uuid.uuid5(uuid.NAMESPACE_OID, str(moment)).hex,
        "Kind": "Snapshot",
        "WindowStart": to_text(moment),
        "WindowEnd": to_text(moment + snapshot_kql.INSTANT),
        "State": state,
        "RecordedAt": to_text(moment),
    }
    for statement in kql.append_rows("MigrationLedger", columns, [row]):
        adx.command(statement, idempotent=False)


def test_the_functions_of_a_snapshot_table_serve_what_is_published_and_nothing_else(adx: AdxClient) -> None:
    def taken(day: int, second: int = 0) -> datetime:
        return datetime(2026, 9, day, 6, 30, second, 123456, tzinfo=UTC)

    def take(moment: datetime, names: Sequence[str], state: str | None) -> None:
        time = moment.isoformat().replace("+00:00", "Z")
        load(adx, KNOWN, [{"SnapshotTime": time, "CveId": name, "CvssScore": "9.8"} for name in names])
        if state:
            publish(adx, moment, state)

    def latest() -> list[str]:
        return sorted(row["CveId"] for row in adx.query(KNOWN.name))

    take(taken(1), ["planned"], None)
    assert latest() == adx.query(f"{KNOWN.name}History") == []
    take(taken(2), ["a", "b"], "Published")
    take(taken(2, 1), ["c"], "Failed")
    assert latest() == ["a", "b"]
    take(taken(2, 2), ["b", "d"], None)
    take(taken(3), ["part of"], None)
    assert latest() == ["a", "b"]
    publish(adx, taken(2, 2), "Published")
    assert latest() == ["b", "d"]
    take(taken(4), ["e"], "Published")
    assert latest() == ["e"]
    (row,) = adx.query(f"{KNOWN.name} | where CvssScore > 9")
    assert list(row) == [column.name for column in (*KNOWN.columns, *KNOWN.undocumented_columns)]
    history = adx.query(
        f"{KNOWN.name}History() | summarize make_set(CveId) by SnapshotTime | order by SnapshotTime asc"
    )
    assert [sorted(row["set_CveId"]) for row in history] == [["b", "d"], ["e"]]


# --- what else is said of them ------------------------------------------------------------------


def test_the_database_knows_what_the_columns_are_and_tells_names_apart_by_case(adx: AdxClient) -> None:
    (row,) = adx.command(".show table DeviceProcessEvents schema as json", idempotent=True)
    schema = row["Schema"] if isinstance(row["Schema"], dict) else json.loads(row["Schema"])
    columns = {column["Name"]: column for column in schema["OrderedColumns"]}
    assert list(columns) == [column.name for column in typed_columns(PROCESSES)]
    assert columns["LogonId"]["CslType"] == columns["LogonID"]["CslType"] == "long"
    assert columns["LogonID"]["DocString"] == "Another column is LogonId: names are case-sensitive."
    assert columns["AdditionalFields"]["DocString"].endswith("parse_json(AdditionalFields).")
    assert schema["Folder"] == "Defender/Devices"


def test_running_bootstrap_again_changes_nothing(adx: AdxClient) -> None:
    before = adx.query("CloudAppEvents | count")
    bootstrap(adx, client_id=None, tenant_id=None, grants=False, tables=(CLOUD,), retention_days=730)
    assert adx.query("CloudAppEvents | count") == before
    for name in ("CloudAppEvents", "CloudAppEventsRaw"):
        (row,) = adx.command(f".show table {name} policy retention", idempotent=True)
        assert json.loads(row["Policy"])["SoftDeletePeriod"] == "730.00:00:00"


def test_bootstrap_over_a_table_with_columns_of_its_own_lets_loads_go_on(adx: AdxClient) -> None:
    table = CATALOGUE["UrlClickEvents"]
    for _ in range(2):
        bootstrap(adx, client_id=None, tenant_id=None, grants=False, tables=(table,))
    # By hand, and with no function that follows: until bootstrap no load is let in.
    adx.command(".create-merge table UrlClickEvents (Own: long, IsClickedThrough_string: string)", idempotent=True)
    before = existing_columns(adx, [table])
    record = {"Own": 2**53 + 1, "IsClickedThrough": "perhaps", "Url": "http://contoso.com"}
    ours = slice_id()
    assert load(adx, table, [record], ours).landed == set()
    for loaded in (1, 2):
        report = bootstrap(adx, client_id=None, tenant_id=None, grants=False, tables=(table,))
        assert not any(item.text.startswith(".execute") for item in report.applied)
        assert existing_columns(adx, [table]) == before
        assert len(load(adx, table, [record], ours if loaded == 1 else None).landed) == 1
        rows = adx.query("UrlClickEvents | project Own, IsClickedThrough, IsClickedThrough_string, Url")
        assert [list(row.values()) for row in rows] == [[2**53 + 1, None, "perhaps", "http://contoso.com"]] * loaded


def test_bootstrap_takes_over_a_table_with_other_types_and_fewer_columns(adx: AdxClient) -> None:
    table = CATALOGUE["EmailUrlInfo"]
    adx.command(".create-merge table EmailUrlInfo (UrlLocation: dynamic, Timestamp: datetime)", idempotent=True)
    report = bootstrap(adx, client_id=None, tenant_id=None, grants=False, tables=(table,))
    # Its new columns come with the function in one command, before the command that names all tables.
    scripts = [item for item in report.applied if item.text.startswith(".execute database script")]
    assert [(item.file, item.role.split(",")[0]) for item in scripts] == [("50_typed_tables.kql", "Database Admin")]
    columns = existing_columns(adx, [table])[table.name]
    assert columns_of(adx, table) == columns
    assert columns_of(adx, replace(table, name="NobodyMadeIt")) is None
    first = (Column("UrlLocation", "dynamic"), Column("Timestamp", "datetime"))
    assert columns == typed_columns(table, first)
    assert inspect(adx, [table]).missing == ()
    record = {"Timestamp": "2026-08-01T00:00:00.1234567Z", "UrlLocation": ["Body"], "Url": "http://contoso.com"}
    assert len(load(adx, table, [record]).landed) == 1
    (row,) = adx.query("EmailUrlInfo | project Timestamp, UrlLocation, Url")
    assert row == record
