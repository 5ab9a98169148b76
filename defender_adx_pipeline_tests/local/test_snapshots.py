"""The state of snapshot tables: made, moved on, hidden by nothing but a timespan, moved between two calls."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from defender_adx_pipeline.catalogue import Catalogue, load_catalogue
from defender_adx_pipeline.local.data import Moved, add_state, evolve, evolve_at, fill, rows_of
from defender_adx_pipeline.local.data.states import CHANGES
from defender_adx_pipeline.local.entra import Application, TokenIssuer
from defender_adx_pipeline.local.hunting import ENDPOINTS, HuntingService
from defender_adx_pipeline.local.limits import CallQuota, HuntingLimits
from defender_adx_pipeline.local.source import SourceError, SourceStore

NOW = datetime(2026, 11, 24, 12, 0, 0, 250, tzinfo=UTC)
GRAPH, XDR = (next(endpoint for endpoint in ENDPOINTS if endpoint.api == api) for api in ("graph", "xdr"))
SNAPSHOTS = [table.name for table in load_catalogue().snapshots()]
# Half of the time of a store goes into making tables.
CATALOGUE = Catalogue({name: load_catalogue()[name] for name in ("DeviceInfo", *SNAPSHOTS)})


@pytest.fixture
def store():
    store = SourceStore(":memory:", CATALOGUE, lambda: NOW)
    yield store
    store.close()


@pytest.fixture(scope="module")
def filled():
    store = SourceStore(":memory:", CATALOGUE, lambda: NOW)
    fill(store, seed=3, scale=0.05, tables=SNAPSHOTS)
    yield store
    store.close()


@pytest.fixture(scope="module")
def hunting():
    issuer = TokenIssuer("tenant", [Application("app", "s")])

    def ask(store, query, endpoint=GRAPH, timespan=None):
        limits = HuntingLimits()
        service = HuntingService(store, issuer, CallQuota(limits), limits)
        return json.loads(service.answer(endpoint, query, timespan))

    return ask


def by_key(store, table):
    """Every row by its key, as the catalogue has it; keys that repeat fail."""
    rows = [json.loads(line) for line in store.rows(table)]
    found = {tuple(row.get(name) for name in CATALOGUE[table].identity): row for row in rows}
    assert len(found) == len(rows), table
    return found


def test_the_state_of_a_small_tenant_has_60000_to_100000_rows_with_the_vulnerabilities_ahead():
    counts = {name: rows_of(name) for name in SNAPSHOTS}
    assert len(counts) == 17
    assert 60_000 <= sum(counts.values()) <= 100_000
    assert max(counts, key=counts.get) == "DeviceTvmSoftwareVulnerabilities"


def test_every_snapshot_table_is_filled_with_unique_keys_that_are_all_there(filled):
    for name in SNAPSHOTS:
        rows = by_key(filled, name)
        assert len(rows) == rows_of(name, 0.05), name
        assert all(part not in ("", None) for key in rows for part in key), name


def test_the_tables_speak_of_the_same_things(filled):
    known = {key[0] for key in by_key(filled, "DeviceTvmSoftwareVulnerabilitiesKB")}
    named = {key[-1] for key in by_key(filled, "DeviceTvmSoftwareVulnerabilities")}
    assert len(named & known) > 0.25 * len(named)
    nodes = {key[0] for key in by_key(filled, "ExposureGraphNodes")}
    edges = by_key(filled, "ExposureGraphEdges").values()
    assert {edge[f"{side}NodeId"] for edge in edges for side in ("Source", "Target")} <= nodes
    devices = {key[0] for key in by_key(filled, "DeviceTvmSecureConfigurationAssessment")}
    assert devices == {key[0] for key in by_key(filled, "DeviceTvmInfoGathering")}


def test_values_are_as_awkward_as_the_real_ones(filled):
    knowledge = list(by_key(filled, "DeviceTvmSoftwareVulnerabilitiesKB").values())
    assert all(re.fullmatch(r"\d\.\d", row["CvssScore"]) for row in knowledge)  # a number in a column of text
    certificate = next(iter(by_key(filled, "DeviceTvmCertificateInfo").values()))
    assert datetime.fromisoformat(certificate["ExpirationDate"])  # a date in a column of text
    assert isinstance(certificate["IssuedTo"], dict)
    times = [row["Timestamp"] for row in by_key(filled, "DeviceTvmInfoGathering").values()]
    assert max(len(time) for time in times) == len("2026-11-24T12:00:00.1234567Z")
    inventory = by_key(filled, "DeviceTvmSoftwareInventory").values()
    assert {"EndOfSupportDate" in row for row in inventory} == {True, False}  # a null is left out of the truth
    nodes = [row["NodeProperties"]["rawData"] for row in by_key(filled, "ExposureGraphNodes").values()]
    assert max(node["bytes"] for node in nodes) > 1 << 53
    edges = by_key(filled, "ExposureGraphEdges").values()
    assert {"EdgeProperties" in edge for edge in edges} == {True, False}
    assert isinstance(next(iter(edges))["SourceNodeCategories"], list)


def test_more_rows_of_a_device_table_are_more_devices_and_further_rows_repeat_no_key(store):
    assert add_state(store, "DeviceTvmSecureConfigurationAssessment", 8_000) == 8_000
    assert len({key[0] for key in by_key(store, "DeviceTvmSecureConfigurationAssessment")}) == 100
    for _ in range(2):
        add_state(store, "DeviceTvmSoftwareVulnerabilities", 2_000)
    assert len(by_key(store, "DeviceTvmSoftwareVulnerabilities")) == 4_000


def test_the_state_of_each_table_moves_on_by_so_many_new_gone_and_changed_rows(store):
    for table in SNAPSHOTS:
        add_state(store, table, 40)
        before = by_key(store, table)
        assert evolve(store, table, new=7, gone=5, changed=3) == Moved(table, new=7, gone=5, changed=3, rows=42)
        after = by_key(store, table)
        assert (len(after.keys() - before.keys()), len(before.keys() - after.keys())) == (7, 5), table
        assert sum(before[key] != after[key] for key in before.keys() & after.keys()) == 3, table


def test_the_same_seed_moves_a_state_the_same_way_and_each_move_differs(store):
    other = SourceStore(":memory:", CATALOGUE, lambda: NOW)
    states = []
    for one in (store, other):
        add_state(one, "ExposureGraphNodes", 200)
        for _ in range(2):
            assert evolve(one, "ExposureGraphNodes", new=0.1, gone=0.1, changed=0.1).new == 20
        states.append(by_key(one, "ExposureGraphNodes"))
    assert states[0] == states[1]
    evolve(other, "ExposureGraphNodes", new=0, gone=0.1, changed=0, seed=8)
    evolve(store, "ExposureGraphNodes", new=0, gone=0.1, changed=0)
    assert by_key(store, "ExposureGraphNodes").keys() != by_key(other, "ExposureGraphNodes").keys()
    other.close()


def test_a_state_of_ones_own_rows_moves_on_too_and_can_end_empty(store):
    store.insert_rows("DeviceTvmInfoGatheringKB", [{"IgId": f"own-{n}"} for n in range(10)])
    assert evolve(store, "DeviceTvmInfoGatheringKB", new=2, gone=3, changed=1).rows == 9
    assert evolve(store, "DeviceTvmInfoGatheringKB", new=0, gone=1.0, changed=5).gone == 9
    assert fill(store, tables=["DeviceTvmInfoGatheringKB"]) == 0
    assert by_key(store, "DeviceTvmInfoGatheringKB") == {}


def test_only_snapshot_tables_move_on_and_each_knows_how(store):
    assert set(CHANGES) == set(SNAPSHOTS)
    for table, columns in CHANGES.items():
        assert not set(columns) & set(CATALOGUE[table].identity), table
    for table in ("DeviceInfo", "Nothing"):
        with pytest.raises(SourceError, match=f"{table}: it is no snapshot table"):
            evolve(store, table)
    with pytest.raises(SourceError, match="cannot be -1"):
        evolve(store, "ExposureGraphNodes", gone=-1)
    assert store.count_stored("ExposureGraphNodes") == 0


def test_a_state_is_there_however_old_its_assessment_is_unless_the_timespan_hides_it(store, hunting):
    ages = {"new": 1, "old": 34, "older": 400}
    store.insert_rows(
        "DeviceTvmInfoGathering",
        [
            {"DeviceId": name, "Timestamp": (NOW - timedelta(days=days)).isoformat(), "LastSeenTime": None}
            for name, days in ages.items()
        ],
    )
    query = "DeviceTvmInfoGathering | project DeviceId"

    def devices(answer):
        return {row["DeviceId"] for row in answer.get("results") or answer["Results"]}

    assert devices(hunting(store, query)) == {"new"}  # Graph takes 30 days when it is given none
    assert devices(hunting(store, query, timespan="P60D")) == {"new", "old"}
    assert devices(hunting(store, query, timespan="P3650D")) == set(ages)
    assert devices(hunting(store, query, XDR)) == set(ages)
    # Tables without a time column know no timespan.
    store.insert_rows("DeviceTvmInfoGatheringKB", [{"IgId": "1"}])
    assert len(hunting(store, "DeviceTvmInfoGatheringKB", timespan="PT1H")["results"]) == 1


def test_some_generated_assessments_are_older_than_30_days(store, hunting):
    add_state(store, "DeviceTvmSecureConfigurationAssessment", rows_of("DeviceTvmSecureConfigurationAssessment"))
    counts = [
        hunting(store, "DeviceTvmSecureConfigurationAssessment | count", timespan=timespan)["results"][0]["Count"]
        for timespan in (None, "P365D")
    ]
    assert counts == [4_720, 4_800]


def test_a_state_moves_just_before_the_call_that_was_named(store, hunting):
    add_state(store, "ExposureGraphNodes", 100)
    evolve_at(store, 2, "ExposureGraphNodes", match="hash", new=10, gone=0, changed=0)
    counts = [
        hunting(store, query)["results"][0]["Count"]
        for query in (
            "ExposureGraphNodes | where hash(NodeId, 1) == 0 | count",
            "ExposureGraphNodes | count",
            "ExposureGraphNodes | where hash(NodeId, 1) == 0 | count",
            "ExposureGraphNodes | where hash(NodeId, 1) == 0 | count",
        )
    ]
    assert counts == [100, 100, 110, 110]


def test_a_move_that_was_taken_back_does_not_happen(store, hunting):
    add_state(store, "ExposureGraphNodes", 100)
    evolve_at(store, 1, "ExposureGraphNodes", gone=50)()
    assert hunting(store, "ExposureGraphNodes | count")["results"][0]["Count"] == 100


def test_a_hook_sees_every_query_before_its_work_and_ends_when_it_is_told(store, hunting):
    seen = []

    def hook(query):
        seen.append(query)
        store.insert_rows("ExposureGraphNodes", [{"NodeId": str(len(seen))}])

    forget = store.before_queries(hook)
    assert hunting(store, "ExposureGraphNodes | count")["results"][0]["Count"] == 1
    forget()
    assert hunting(store, "ExposureGraphNodes | count")["results"][0]["Count"] == 1
    assert seen == ["ExposureGraphNodes | count"]
