"""Typed rows made anew out of raw ones, with the real client over a local tenant."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.typed_tables import (
    expand_function,
    expand_name,
    typed_columns,
    typed_table_name,
    widening,
)
from defender_adx_pipeline.catalogue import Catalogue, Column, load_catalogue
from defender_adx_pipeline.migration.backfill import TRIES, backfill
from defender_adx_pipeline.migration.errors import BackfillError
from defender_adx_pipeline_tests.conftest import OpenTenant, Statements
from defender_adx_pipeline_tests.migration.backfilling import Between, Record, expanded, no_policy, put, typed

if TYPE_CHECKING:
    from defender_adx_pipeline.local.tenant import LocalTenant

pytestmark = pytest.mark.long

CATALOGUE = load_catalogue()
SIGN_INS, CLOUD, PROCESSES, KNOWN = TABLES = tuple(
    CATALOGUE[name]
    for name in ("EntraIdSignInEvents", "CloudAppEvents", "DeviceProcessEvents", "DeviceTvmSoftwareVulnerabilitiesKB")
)
START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def tenant(open_tenant: OpenTenant) -> Iterator["LocalTenant"]:
    with open_tenant(scale=0, catalogue=Catalogue({table.name: table for table in TABLES})) as opened:
        yield opened


@pytest.fixture(scope="module")
def database(tenant: "LocalTenant", statements: Statements) -> Iterator[AdxClient]:
    """The typed tables of a few Defender tables."""
    added = {column.name: column.type for column in (*typed_columns(SIGN_INS), *ADDED)}
    statements.add_table("adx", SIGN_INS.name, added)
    environment = tenant.environment()
    with AdxClient(environment["ADX_CLUSTER_URI"], environment["ADX_DATABASE"], first_wait=0.01) as client:
        bootstrap(client, client_id=None, tenant_id=None, grants=False, tables=TABLES, typed=True)
        yield client


@pytest.fixture
def adx(database: AdxClient, tenant: "LocalTenant") -> Iterator[AdxClient]:
    """The database without a row."""
    for table in TABLES:
        for name in (table.raw_table, typed_table_name(table)):
            database.command(f".clear table {name} data", idempotent=True)
    yield database
    tenant.faults.clear()


ADDED = (Column("RiskScore", "int"), Column("ErrorCode_string", "string"))


def sign_ins(days: int, per_day: int = 2, kind: str = "old") -> list[Record]:
    return [
        {
            "Timestamp": f"{(START + timedelta(days=day, hours=number)).isoformat()[:19]}.123456{number}Z",
            "RequestId": f"{kind} {day} {number}",
            "ErrorCode": 50_000 + number,
            "RiskScore": day,
        }
        for day in range(days)
        for number in range(per_day)
    ]


# --- what it is for -----------------------------------------------------------------------------


def test_rows_that_were_loaded_before_the_policy_are_expanded_once_however_often_it_runs(adx: AdxClient) -> None:
    records = [*sign_ins(days=5), {"Timestamp": "yesterday", "RequestId": "unfit"}, {"RequestId": "no time"}]
    with no_policy(adx, SIGN_INS):
        put(adx, SIGN_INS, records)
    put(adx, SIGN_INS, sign_ins(days=2, kind="new"))
    assert typed(adx, SIGN_INS).total() == 4
    told: list[str] = []
    done = backfill(adx, SIGN_INS, rows_per_part=4, tell=told.append)
    assert (done.rows, done.windows) == (16, 4 + 1)
    assert typed(adx, SIGN_INS) == expanded(adx, SIGN_INS)
    assert told[0] == "EntraIdSignInEvents: 16 raw rows and 4 typed ones"
    assert told[-1] == "EntraIdSignInEvents: part 5 of 5, the rows without a time: 2 rows"
    texts = {row["Text"] for row in adx.query(f"{SIGN_INS.name} | project Text = tostring(Timestamp)")}
    assert "2026-11-01T01:00:00.1234561Z" in texts
    before = typed(adx, SIGN_INS)
    assert backfill(adx, SIGN_INS).rows == 16
    assert typed(adx, SIGN_INS) == before


def test_only_the_window_that_was_asked_for_is_expanded(adx: AdxClient) -> None:
    with no_policy(adx, SIGN_INS):
        put(adx, SIGN_INS, [*sign_ins(days=5), {"RequestId": "no time"}])
    noon = START + timedelta(hours=1)
    assert backfill(adx, SIGN_INS, start=noon, end=START + timedelta(days=3), rows_per_part=2).rows == 5
    requests = {row["RequestId"] for row in adx.query(f"{SIGN_INS.name} | project RequestId")}
    assert requests == {"old 0 1", "old 1 0", "old 1 1", "old 2 0", "old 2 1"}
    assert backfill(adx, SIGN_INS, start=START + timedelta(days=9)).windows == 0


def test_a_column_that_was_added_and_one_whose_type_changed_get_their_old_values(adx: AdxClient) -> None:
    put(adx, SIGN_INS, [*sign_ins(days=3), {**sign_ins(days=1)[0], "RequestId": "text", "ErrorCode": "AADSTS50126"}])
    for text in widening(SIGN_INS, typed_columns(SIGN_INS), ADDED):
        adx.command(text, idempotent=True)
    seen = f"{SIGN_INS.name} | summarize Rows = count() by RiskScore, ErrorCode_string"
    assert [list(row.values()) for row in adx.query(seen)] == [[None, "", 7]]
    assert backfill(adx, SIGN_INS, rows_per_part=3).rows == 7
    rows = {row["RequestId"]: row for row in adx.query(SIGN_INS.name)}
    old, text = rows["old 2 1"], rows["text"]
    assert (old["RiskScore"], old["ErrorCode"], old["ErrorCode_string"]) == (2, 50_001, "50001")
    assert (text["RiskScore"], text["ErrorCode"], text["ErrorCode_string"]) == (0, None, "AADSTS50126")


def test_a_snapshot_is_expanded_in_buckets_and_whole(adx: AdxClient) -> None:
    with no_policy(adx, KNOWN):
        for day, count in ((1, 40), (2, 3)):
            moment = f"2026-11-{day:02d}T06:30:00.123456Z"
            put(adx, KNOWN, [{"SnapshotTime": moment, "CveId": f"CVE-{number}"} for number in range(count)])
    told: list[str] = []
    done = backfill(adx, KNOWN, rows_per_part=10, tell=told.append)
    assert (done.rows, done.windows) == (43, 5)
    assert "[2026-11-01T06:30:00.123456Z, 2026-11-01T06:30:00.123457Z), bucket 3 of 4" in told[4]
    assert typed(adx, KNOWN) == expanded(adx, KNOWN)


def test_a_table_whose_column_names_differ_in_case_alone_is_expanded(adx: AdxClient) -> None:
    with no_policy(adx, PROCESSES):
        put(adx, PROCESSES, [{"Timestamp": "2026-11-01T00:00:00Z", "ReportId": 2**53 + 1, "LogonId": 5}])
    assert backfill(adx, PROCESSES).rows == 1
    (row,) = adx.query(PROCESSES.name)
    assert (row["ReportId"], row["LogonId"]) == (2**53 + 1, 5)


@settings(max_examples=4)
@given(
    times=st.lists(st.sampled_from(["", *(f"2026-11-0{day}T00:00:00.00000{digit}Z" for day in (1, 2) for digit in (
        "0", "01", "09", "1"
    ))]), max_size=7),
    most=st.integers(1, 4),
)  # fmt: skip
def test_whatever_the_times_are_each_raw_row_has_its_typed_one(
    database: AdxClient, times: list[str], most: int
) -> None:
    for name in (CLOUD.raw_table, CLOUD.name):
        database.command(f".clear table {name} data", idempotent=True)
    records = [{"Timestamp": time, "ReportId": f"{number // 2}"} for number, time in enumerate(times)]
    with no_policy(database, CLOUD):
        put(database, CLOUD, records[::2])
    put(database, CLOUD, records[1::2])
    assert backfill(database, CLOUD, rows_per_part=most).rows == len(times)
    assert typed(database, CLOUD) == expanded(database, CLOUD)
    assert typed(database, CLOUD).total() == len(times)


# --- beside a running load ----------------------------------------------------------------------


def test_loads_between_the_parts_are_neither_lost_nor_doubled(adx: AdxClient) -> None:
    with no_policy(adx, SIGN_INS):
        put(adx, SIGN_INS, sign_ins(days=4))
    # Into parts that are done, that come, and that lie between and beyond.
    client = Between(adx, after=lambda number: put(adx, SIGN_INS, sign_ins(days=6, kind=f"load {number}")))
    done = backfill(client, SIGN_INS, rows_per_part=4)
    assert (done.windows, client.replacements) == (2, 2)
    assert typed(adx, SIGN_INS) == expanded(adx, SIGN_INS)
    assert typed(adx, SIGN_INS).total() == 8 + 2 * 12


LOST = (
    f".update table {SIGN_INS.name} delete D append A <|\n"
    f"let D = {SIGN_INS.name} | where {{}};\nlet A = {SIGN_INS.name} | where {{}};"
)
BREAKS = {
    "lost": LOST.format("RequestId == 'old 0 0'", "false"),
    "doubled": LOST.format("RequestId == 'none'", "RequestId == 'old 0 0'"),
    "one lost and another doubled": LOST.format("RequestId == 'old 0 0'", "RequestId == 'old 0 1'"),
}
"""What would be left if the two queries of a replacement saw different moments."""


@pytest.mark.parametrize("damage", BREAKS.values(), ids=BREAKS.keys())
def test_a_row_that_a_load_lost_or_doubled_while_its_part_was_replaced_is_put_right(
    adx: AdxClient, damage: str
) -> None:
    put(adx, SIGN_INS, sign_ins(days=2))
    client = Between(adx, after=lambda number: number == 1 and adx.command(damage, idempotent=False))
    told: list[str] = []
    done = backfill(client, SIGN_INS, rows_per_part=2, tell=told.append)
    assert (done.windows, client.replacements) == (2, 3)
    assert any("after try 1 of 4: a load came between" in text for text in told)
    assert typed(adx, SIGN_INS) == expanded(adx, SIGN_INS)


def test_counts_that_stay_unequal_are_an_error_that_names_part_and_counts(adx: AdxClient) -> None:
    put(adx, SIGN_INS, sign_ins(days=2))
    raw = adx.query(f"{SIGN_INS.raw_table} | count")
    client = Between(
        adx, after=lambda number: number > 1 and adx.command(BREAKS["lost"].replace(" 0 0", " 1 0"), idempotent=False)
    )
    with pytest.raises(BackfillError) as caught:
        backfill(client, SIGN_INS, rows_per_part=2)
    said = str(caught.value)
    assert "EntraIdSignInEvents [2026-11-02T00:00:00Z, 2026-11-03T00:00:00Z): 2 raw rows and 1 typed ones" in said
    assert f"replaced {TRIES} times" in said
    assert "run it again with --from 2026-11-02T00:00:00Z" in said
    assert client.replacements == 1 + TRIES
    assert adx.query(f"{SIGN_INS.raw_table} | count") == raw


def test_who_reads_while_it_runs_sees_every_row_once(adx: AdxClient) -> None:
    put(adx, CLOUD, [{"Timestamp": f"2026-11-01T00:00:{n:02d}Z", "ReportId": f"{n}"} for n in range(60)])
    seen: set[tuple[Any, ...]] = set()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            (row,) = adx.query(f"{CLOUD.name} | summarize Rows = count(), Different = dcount(ReportId)")
            seen.add(tuple(row.values()))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert backfill(adx, CLOUD, rows_per_part=10).windows == 6
    finally:
        over.set()
        reader.join()
    assert seen == {(60, 60)}


# --- when it fails ------------------------------------------------------------------------------


def test_a_failure_in_the_middle_leaves_its_part_as_it_was_and_the_ones_before_done(adx: AdxClient) -> None:
    with no_policy(adx, CLOUD):
        put(adx, CLOUD, [{"Timestamp": f"2026-11-0{n}T00:00:00Z", "ReportId": f"{n}"} for n in (1, 2, 3)])
    adx.command(".create-merge table CloudDerived (ReportId: string)", idempotent=True)

    def break_it(number: int) -> None:
        # A transactional policy over the typed table, which fails after the rows were deleted and appended.
        if number == 2:
            policy = [{"IsEnabled": True, "Source": CLOUD.name, "Query": f"{CLOUD.name} | project Timestamp",
                       "IsTransactional": True}]  # fmt: skip
            adx.command(f".alter table CloudDerived policy update ```{json.dumps(policy)}```", idempotent=True)

    try:
        with pytest.raises(BackfillError) as caught:
            backfill(Between(adx, before=break_it), CLOUD, rows_per_part=1)
    finally:
        adx.command(".drop table CloudDerived", idempotent=True)
    said = str(caught.value)
    assert "CloudAppEvents [2026-11-02T00:00:00Z, 2026-11-03T00:00:00Z): it could not be expanded anew" in said
    assert "The part is as it was, parts before it are done" in said
    assert "with --from 2026-11-02T00:00:00Z" in said
    assert [row["ReportId"] for row in adx.query(CLOUD.name)] == ["1"]
    assert backfill(adx, CLOUD, start=datetime(2026, 11, 2, tzinfo=UTC)).rows == 2
    assert typed(adx, CLOUD) == expanded(adx, CLOUD)


def test_a_replacement_of_which_nobody_knows_whether_it_ran_is_not_sent_again(
    adx: AdxClient, tenant: "LocalTenant"
) -> None:
    put(adx, CLOUD, [{"Timestamp": "2026-11-01T00:00:00Z", "ReportId": "1"}])
    replacements = sum(
        (request.statement or "").startswith(".update") for request in tenant.log.entries(service="engine")
    )
    tenant.faults.add_json({"service": "engine", "kind": "lost_reply", "match": ".update", "times": 1})
    with pytest.raises(BackfillError) as caught:
        backfill(adx, CLOUD)
    assert "its old rows or its new ones, never some of both" in str(caught.value)
    assert "Wait until it has ended, after 10 minutes at the latest" in str(caught.value)
    sent = sum((request.statement or "").startswith(".update") for request in tenant.log.entries(service="engine"))
    assert sent == replacements + 1
    assert typed(adx, CLOUD) == expanded(adx, CLOUD)


def test_typed_rows_without_a_raw_record_are_not_deleted_unless_asked_for(adx: AdxClient) -> None:
    put(adx, CLOUD, [{"Timestamp": f"2026-11-0{n}T00:00:00Z", "ReportId": f"{n}"} for n in (1, 2)])
    adx.command(f".clear table {CLOUD.raw_table} data", idempotent=True)
    put(adx, CLOUD, [{"Timestamp": "2026-11-02T00:00:00Z", "ReportId": "3"}])
    before = typed(adx, CLOUD)
    with pytest.raises(BackfillError, match="CloudAppEvents has 2 rows more than CloudAppEventsRaw") as caught:
        backfill(adx, CLOUD)
    assert "(1 typed, 0 raw)" in str(caught.value)
    assert typed(adx, CLOUD) == before
    assert backfill(adx, CLOUD, delete_surplus=True).rows == 1
    assert [row["ReportId"] for row in adx.query(CLOUD.name)] == ["3"]


# --- when it refuses ----------------------------------------------------------------------------


def test_it_refuses_what_is_not_there_or_does_not_match_and_says_what_to_do(adx: AdxClient) -> None:
    put(adx, CLOUD, [{"Timestamp": "2026-11-01T00:00:00Z", "ReportId": "1"}])
    before = typed(adx, CLOUD)

    def refusal() -> str:
        client = Between(adx)
        with pytest.raises(BackfillError) as caught:
            backfill(client, CLOUD)
        assert client.replacements == 0
        assert "Nothing was changed" in str(caught.value)
        return str(caught.value)

    with no_policy(adx, CLOUD):
        assert "no update policy over CloudAppEventsRaw" in refusal()
    adx.command(f".create-merge table {CLOUD.name} (ActionType2: string)", idempotent=True)
    said = refusal()
    assert "only one of them has ActionType2 (string)" in said
    assert "`defender-adx schema apply` first" in said
    assert {*typed(adx, CLOUD)} != set(before)
    adx.command(f".drop function {expand_name(CLOUD)}", idempotent=True)
    assert f"{expand_name(CLOUD)} is not there" in refusal()
    adx.command(expand_function(CLOUD, (*typed_columns(CLOUD), Column("ActionType2", "string"))), idempotent=True)
    assert backfill(adx, CLOUD).rows == 1
    absent = CATALOGUE["DeviceInfo"]
    with pytest.raises(BackfillError, match=r"DeviceInfo is not there.*defender-adx bootstrap"):
        backfill(adx, absent)


@pytest.mark.parametrize("bounds", [{"start": START, "end": START}, {"rows_per_part": 0}])
def test_an_empty_window_is_a_mistake(adx: AdxClient, bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing to expand"):
        backfill(adx, CLOUD, **bounds)
