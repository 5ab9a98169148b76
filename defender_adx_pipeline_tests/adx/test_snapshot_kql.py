"""Snapshots in ADX: what analysts see of them, and what the pipeline asks; against a local tenant's engine."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.adx import kql, snapshot_kql
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.schema import Placeholders, bootstrap, inspect, statements
from defender_adx_pipeline.adx.snapshot_views import snapshot_functions
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.instants import parse_instant, to_text
from defender_adx_pipeline.quoting import InvalidNameError
from defender_adx_pipeline_tests.conftest import OpenTenant

CATALOGUE = load_catalogue()
NODES, EDGES, INFO = "ExposureGraphNodes", "ExposureGraphEdges", "DeviceTvmInfoGathering"
CERTIFICATES, PROFILES, RULES = (
    "DeviceTvmCertificateInfo",
    "DeviceBaselineComplianceProfiles",
    "DeviceTvmInfoGatheringKB",
)
TABLES = tuple(CATALOGUE[name] for name in (NODES, EDGES, INFO, CERTIFICATES, PROFILES, RULES))
"""One table for each test, so that none sees the rows of another."""

Record = dict[str, Any]


def taken(day: int, second: int = 0) -> datetime:
    """The SnapshotTime of a snapshot of August."""
    return datetime(2026, 8, day, 6, 30, second, 123456, tzinfo=UTC)


class Snapshots:
    """Writes snapshots as the pipeline does: rows of the ledger, and records that carry their SnapshotTime."""

    def __init__(self, adx: AdxClient) -> None:
        self.adx = adx
        rows = adx.query(kql.table_columns("MigrationLedger"))
        self._ledger = [(str(row["ColumnName"]), str(row["ColumnType"])) for row in rows]

    def state(self, table: str, moment: datetime, state: str, **facts: Any) -> None:
        """One ledger row; of a snapshot unless `facts` say otherwise."""
        row = {
            "RunId": "run",
            "PartitionKey": moment.date().isoformat(),
            "SourceTable": table,
            "DestinationTable": f"{table}Raw",
            "SliceId": uuid.uuid5(uuid.NAMESPACE_OID, f"{table}{moment}").hex,
            "Kind": "Snapshot",
            "WindowStart": to_text(moment),
            "WindowEnd": to_text(moment + snapshot_kql.INSTANT),
            "State": state,
            "Attempt": 1,
            "RecordedAt": to_text(moment + timedelta(minutes=5)),
            **facts,
        }
        self._append("MigrationLedger", self._ledger, [row])

    def rows(self, table: str, moment: datetime, records: Sequence[Record]) -> None:
        """Records of a snapshot, whatever the ledger says of it."""
        carried = [{"Records": {"SnapshotTime": moment.isoformat().replace("+00:00", "Z"), **one}} for one in records]
        self._append(f"{table}Raw", [("Records", "dynamic")], carried)

    def take(self, table: str, moment: datetime, records: Sequence[Record], state: str = "Published") -> None:
        """A snapshot that ends in a state."""
        self.state(table, moment, "Planned")
        self.rows(table, moment, records)
        if state != "Planned":
            self.state(table, moment, state, QueryableRows=len(records))

    def seen(self, call: str) -> list[Record]:
        """What a function of a table gives."""
        return self.adx.query(call)

    def keys(self, call: str, column: str) -> list[str]:
        return sorted(row[column] for row in self.seen(call))

    def _append(self, table: str, columns: kql.Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        for statement in kql.append_rows(table, columns, rows):
            self.adx.command(statement, idempotent=False)


@pytest.fixture(scope="module")
def snapshots(open_tenant: OpenTenant) -> Iterator[Snapshots]:
    """A database with the objects of a few snapshot tables and no row."""
    with open_tenant(scale=0) as tenant:
        environment = tenant.environment()
        with AdxClient(environment["ADX_CLUSTER_URI"], environment["ADX_DATABASE"]) as adx:
            bootstrap(adx, client_id=None, tenant_id=None, grants=False, tables=TABLES)
            assert inspect(adx, TABLES).missing == ()
            yield Snapshots(adx)


# --- what analysts see --------------------------------------------------------------------------


def test_only_published_snapshots_are_served_and_of_a_day_the_latest(snapshots: Snapshots) -> None:
    latest, at = f"Vw{NODES}Latest()", f"Vw{NODES}At(datetime({{}}))"
    # Of an older script, which loaded records without a SnapshotTime.
    snapshots._append(f"{NODES}Raw", [("Records", "dynamic")], [{"Records": {"NodeId": "older"}}])
    snapshots.take(NODES, taken(1), [{"NodeId": "planned"}], "Planned")
    assert snapshots.seen(latest) == snapshots.seen(at.format("2026-08-01")) == []
    snapshots.take(NODES, taken(2), [{"NodeId": "first"}])
    snapshots.take(NODES, taken(2, 1), [{"NodeId": "second"}, {"NodeId": "second"}, {"NodeId": "b", "NodeName": "x"}])
    snapshots.take(NODES, taken(2, 2), [{"NodeId": "failed"}], "Failed")
    snapshots.take(NODES, taken(3), [{"NodeId": "failed"}], "Failed")
    assert snapshots.keys(latest, "NodeId") == ["b", "second", "second"]
    snapshots.take(NODES, taken(4), [{"NodeId": "third"}])
    assert snapshots.keys(latest, "NodeId") == ["third"]
    for instant in ("2026-08-02", "2026-08-02T06:30:00Z", "2026-08-02T23:59:59.999999Z"):
        assert snapshots.keys(at.format(instant), "NodeId") == ["b", "second", "second"]
    for instant in ("2026-08-01", "2026-08-03T12:00:00Z", "2026-08-05"):
        assert snapshots.seen(at.format(instant)) == []
    (row,) = [row for row in snapshots.seen(at.format("2026-08-02")) if row["NodeId"] == "b"]
    assert list(row) == ["SnapshotTime", "NodeId", "Records"]
    assert parse_instant(row["SnapshotTime"]) == taken(2, 1)
    assert row["Records"]["NodeName"] == "x"


def test_a_late_row_of_the_ledger_takes_no_published_snapshot_back(snapshots: Snapshots) -> None:
    snapshots.take(RULES, taken(1), [{"IgId": "a"}])
    snapshots.state(RULES, taken(1), "Planned", Attempt=2, RecordedAt=to_text(taken(2)))
    snapshots.state(RULES, taken(1), "Failed", Attempt=2, RecordedAt=to_text(taken(2)))
    assert snapshots.keys(f"Vw{RULES}Latest", "IgId") == ["a"]
    # What was published into another table is not here, and does not hide what is.
    snapshots.state(RULES, taken(2), "Published", DestinationTable="Elsewhere")
    assert snapshots.keys(f"Vw{RULES}Latest", "IgId") == ["a"]
    assert snapshots.seen(f"Vw{RULES}At(datetime(2026-08-02))") == []


def change(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["Change"], row["RowsBefore"], row["RowsAfter"]


def test_changes_names_the_keys_that_are_new_fixed_or_changed(snapshots: Snapshots) -> None:
    at = {1: "2026-08-01T01:00:00Z", 2: "2026-08-02T01:00:00Z"}
    before = [
        {"DeviceId": "same", "Timestamp": at[1], "OSPlatform": "Linux"},
        {"DeviceId": "changed", "Timestamp": at[1], "OSPlatform": "Linux"},
        {"DeviceId": "gone", "Timestamp": at[1]},
        {"DeviceId": "twice", "n": 1},
        {"DeviceId": "twice", "n": 2},
        {"DeviceId": "one of two", "n": 1},
        {"DeviceId": "one of two", "n": 2},
        {"DeviceId": "once more", "n": 1},
    ]
    after = [
        # Assessed anew with the same result.
        {"DeviceId": "same", "Timestamp": at[2], "OSPlatform": "Linux"},
        {"DeviceId": "changed", "Timestamp": at[2], "OSPlatform": "Linux 2"},
        {"DeviceId": "new", "Timestamp": at[2]},
        {"DeviceId": "twice", "n": 2},
        {"DeviceId": "twice", "n": 1},
        {"DeviceId": "one of two", "n": 1},
        {"DeviceId": "one of two", "n": 3},
        {"DeviceId": "once more", "n": 1},
        {"DeviceId": "once more", "n": 1},
    ]
    snapshots.take(INFO, taken(1), before)
    snapshots.take(INFO, taken(2), [{"DeviceId": "not the last of its day"}])
    snapshots.take(INFO, taken(2, 1), after)
    snapshots.take(INFO, taken(3), [{"DeviceId": "failed"}], "Failed")
    snapshots.take(INFO, taken(4), [])
    call = f"Vw{INFO}Changes(datetime(2026-08-0{{}}T05:00:00Z), datetime(2026-08-0{{}}))"
    rows = {row["DeviceId"]: row for row in snapshots.seen(call.format(1, 2))}
    assert {key: change(row) for key, row in rows.items()} == {
        "changed": ("Changed", 1, 1),
        "gone": ("Fixed", 1, 0),
        "new": ("New", 0, 1),
        "one of two": ("Changed", 2, 2),
        "once more": ("Changed", 1, 2),
    }
    assert rows["changed"]["Records"]["OSPlatform"] == "Linux 2"
    assert rows["gone"]["Records"]["Timestamp"] == at[1]
    backwards = {row["DeviceId"]: change(row)[0] for row in snapshots.seen(call.format(2, 1))}
    assert (backwards["gone"], backwards["new"], backwards["changed"]) == ("New", "Fixed", "Changed")
    assert snapshots.seen(call.format(1, 1)) == []
    # Of the third nothing was published: that says nothing about any key. The fourth was published without a row.
    assert snapshots.seen(call.format(1, 3)) == snapshots.seen(call.format(3, 2)) == []
    assert {change(row) for row in snapshots.seen(call.format(1, 4))} == {("Fixed", 1, 0), ("Fixed", 2, 0)}


rows_of_a_day = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), max_size=7)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=rows_of_a_day, after=rows_of_a_day)
def test_changes_is_the_difference_of_two_days_whatever_they_hold(
    snapshots: Snapshots, before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    first = date(2020, 1, 1) + timedelta(days=2 * len(snapshots.adx.query(snapshot_kql.published(PROFILES))))
    days = [datetime(one.year, one.month, one.day, 1, tzinfo=UTC) for one in (first, first + timedelta(days=1))]
    for day, rows in zip(days, (before, after), strict=True):
        snapshots.rows(PROFILES, day, [{"ProfileId": key, "n": content} for key, content in rows])
        snapshots.state(PROFILES, day, "Published", QueryableRows=len(rows))
    wanted = {}
    for key in {key for key, _ in before + after}:
        left, right = (Counter(content for one, content in rows if one == key) for rows in (before, after))
        if left != right:
            word = "New" if not left else "Fixed" if not right else "Changed"
            wanted[key] = (word, left.total(), right.total())
    call = f"Vw{PROFILES}Changes(datetime({first}), datetime({first + timedelta(days=1)}))"
    assert {row["ProfileId"]: change(row) for row in snapshots.seen(call)} == wanted


def test_history_says_since_when_and_until_when_a_key_is_there(snapshots: Snapshots) -> None:
    def certificate(thumbprint: str | None, path: str = "p") -> Record:
        return {"DeviceId": "d", "Thumbprint": thumbprint, "Path": path}

    snapshots.take(CERTIFICATES, taken(1), [certificate("a"), certificate("a"), certificate("b")])
    snapshots.take(CERTIFICATES, taken(2), [certificate("a"), certificate("lost")])
    snapshots.take(CERTIFICATES, taken(2, 1), [certificate("a", "q")])
    snapshots.take(CERTIFICATES, taken(3), [certificate("failed")], "Failed")
    snapshots.take(CERTIFICATES, taken(5), [certificate("a"), certificate("b"), certificate(None)])
    found = {
        (row["Thumbprint"], row["Path"]): (
            parse_instant(row["FirstSeen"]).day,
            parse_instant(row["LastSeen"]).day,
            row["Snapshots"],
        )
        for row in snapshots.seen(f"Vw{CERTIFICATES}History()")
    }
    assert found == {("a", "p"): (1, 5, 2), ("b", "p"): (1, 5, 2), ("a", "q"): (2, 2, 1), ("", "p"): (5, 5, 1)}


def test_a_reader_sees_the_old_snapshot_or_the_new_one_and_never_a_part(snapshots: Snapshots) -> None:
    whole = {tuple(f"{number}-{edge}" for edge in range(6)) for number in range(5)} | {()}
    polls: list[tuple[str, ...]] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            polls.append(latest())

    def latest() -> tuple[str, ...]:
        return tuple(snapshots.keys(f"Vw{EDGES}Latest()", "EdgeId"))

    reader = threading.Thread(target=poll, daemon=True)
    reader.start()
    try:
        old: tuple[str, ...] = ()
        for number in range(5):
            # Two a day, so that one takes the other's place as well.
            moment = taken(1 + number // 2, number)
            edges = [f"{number}-{edge}" for edge in range(6)]
            snapshots.state(EDGES, moment, "Planned")
            for part in range(0, 6, 2):
                snapshots.rows(EDGES, moment, [{"EdgeId": edge} for edge in edges[part : part + 2]])
                assert latest() == old
            snapshots.state(EDGES, moment, "Published", QueryableRows=6)
            old = tuple(edges)
            assert latest() == old
    finally:
        done.set()
        reader.join(timeout=30)
    assert not reader.is_alive()
    assert len(polls) > 5
    assert set(polls) <= whole


# --- what the pipeline asks ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def ledger(snapshots: Snapshots) -> str:
    """A source table with snapshots in every state, and slices of one; its records are in NowhereElseRaw."""
    table = "DeviceTvmHardwareFirmware"
    snapshots.adx.command(".create-merge table NowhereElseRaw (Records: dynamic)", idempotent=True)
    into = {"DestinationTable": "NowhereElseRaw"}
    for day, second, states in (
        (1, 0, ["Planned", "Published"]),
        (2, 0, ["Planned", "Failed"]),
        (2, 1, ["Planned", "Published"]),
        (2, 2, ["Planned", "Published"]),
        (2, 3, ["Planned"]),
    ):
        for state in states:
            snapshots.state(table, taken(day, second), state, QueryableRows=10 * day + second, **into)
    for bucket, generation, states in (
        (1, 0, ["Planned", "Queued", "Confirmed"]),
        (0, 0, ["Planned", "Failed"]),
        (0, 1, ["Planned"]),
    ):
        for number, state in enumerate(states):
            facts = {"Kind": "Slice", "SliceId": f"{bucket}{generation}" * 16, "Bucket": bucket, "Buckets": 2}
            recorded = to_text(taken(2, 10 * generation + number))
            snapshots.state(table, taken(2, 3), state, RecordedAt=recorded, ExpectedRows=5 + bucket, **into, **facts)
    snapshots.rows("NowhereElse", taken(2, 3), [{"DeviceId": "a"}, {"DeviceId": "a"}])
    snapshots.rows("NowhereElse", taken(2, 3) + snapshot_kql.INSTANT, [{"DeviceId": "b"}])
    return table


def times(rows: Sequence[Mapping[str, Any]], column: str) -> list[datetime]:
    return [parse_instant(row[column]) for row in rows]


def test_the_published_snapshots_are_one_a_day_the_newest_first(snapshots: Snapshots, ledger: str) -> None:
    rows = snapshots.adx.query(snapshot_kql.published(ledger))
    assert times(rows, "SnapshotTime") == [taken(2, 2), taken(1)]
    assert times(rows, "SnapshotDay") == [datetime(2026, 8, 2, tzinfo=UTC), datetime(2026, 8, 1, tzinfo=UTC)]
    assert [(row["QueryableRows"], row["DestinationTable"]) for row in rows] == [
        (22, "NowhereElseRaw"),
        (10, "NowhereElseRaw"),
    ]
    assert snapshots.adx.query(snapshot_kql.published('x" or true //')) == []


def test_the_snapshots_of_a_day_come_with_the_state_in_force(snapshots: Snapshots, ledger: str) -> None:
    rows = snapshots.adx.query(snapshot_kql.snapshots_of_day(ledger, datetime(2026, 8, 2, tzinfo=UTC)))
    assert times(rows, "WindowStart") == [taken(2, second) for second in (3, 2, 1, 0)]
    assert [row["State"] for row in rows] == ["Planned", "Published", "Published", "Failed"]
    assert snapshots.adx.query(snapshot_kql.snapshots_of_day(ledger, datetime(2026, 8, 3, tzinfo=UTC))) == []


def test_the_slices_of_a_snapshot_come_by_bucket_with_the_state_in_force(snapshots: Snapshots, ledger: str) -> None:
    rows = snapshots.adx.query(snapshot_kql.snapshot_slices(ledger, taken(2, 3)))
    found = [(row["Bucket"], row["SliceId"], row["State"], row["ExpectedRows"]) for row in rows]
    assert found == [
        (0, "00" * 16, "Failed", 5),
        (0, "01" * 16, "Planned", 5),
        (1, "10" * 16, "Confirmed", 6),
    ]
    assert snapshots.adx.query(snapshot_kql.snapshot_slices(ledger, taken(2, 2))) == []


def test_the_rows_of_a_snapshot_are_those_of_its_very_microsecond(snapshots: Snapshots, ledger: str) -> None:
    for moment, count in ((taken(2, 3), 2), (taken(2, 3) + snapshot_kql.INSTANT, 1), (taken(2, 2), 0)):
        assert snapshots.adx.query(snapshot_kql.rows_of_snapshot("NowhereElseRaw", moment)) == [{"Rows": count}]
    # Ingested long before it was taken: such a row is of an extent that is not read.
    later = datetime.now(UTC).replace(microsecond=5) + timedelta(hours=2)
    snapshots.rows("NowhereElse", later, [{"DeviceId": "c"}])
    assert snapshots.adx.query(snapshot_kql.rows_of_snapshot("NowhereElseRaw", later)) == [{"Rows": 0}]


def test_the_snapshot_before_is_the_last_one_published(snapshots: Snapshots, ledger: str) -> None:
    def before(moment: datetime) -> list[tuple[datetime, int]]:
        rows = snapshots.adx.query(snapshot_kql.last_published_before(ledger, moment))
        return [(parse_instant(row["WindowStart"]), row["QueryableRows"]) for row in rows]

    assert before(taken(2, 3)) == [(taken(2, 2), 22)]
    assert before(taken(2, 2)) == [(taken(2, 1), 21)]
    assert before(taken(2)) == [(taken(1), 10)]
    assert before(taken(1)) == []


# --- names --------------------------------------------------------------------------------------


def test_every_snapshot_table_has_its_functions_in_an_order_in_which_they_can_be_made() -> None:
    made = [item.text for item in statements(Placeholders()) if item.file == "22_snapshot_views.kql"]
    names = [text.splitlines()[1].partition("(")[0] for text in made]
    assert names == [
        f"Vw{table.name}{suffix}"
        for table in CATALOGUE.snapshots()
        for suffix in ("At", "Latest", "Changes", "History")
    ]
    assert names == [name for table in CATALOGUE.snapshots() for name in snapshot_functions(table)]


@pytest.mark.parametrize("name", ['x"] | .drop table y //', "__reserved", "a;b"])
def test_a_table_whose_name_is_none_never_reaches_a_statement(name: str) -> None:
    with pytest.raises(InvalidNameError):
        snapshot_kql.rows_of_snapshot(name, taken(1))
