"""A Defender table whose columns change in the middle of a month, as hunting and the truth see it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import requests

from defender_adx_pipeline.catalogue import KQL_TYPES, Catalogue, Column, load_catalogue
from defender_adx_pipeline.local.kql import run_kql
from defender_adx_pipeline.local.source import DUCKDB_TYPES, SourceError, SourceStore
from defender_adx_pipeline.local.source_schema import add_column, drop_column, retype_column
from defender_adx_pipeline_tests.local.test_tenant import hunt

SIGN_INS = "EntraIdSignInEvents"
CATALOGUE = Catalogue({SIGN_INS: load_catalogue()[SIGN_INS]})
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAYS = [f"2026-11-{day:02d}T00:00:00Z" for day in (10, 15, 20)]


@pytest.fixture
def store():
    store = SourceStore(":memory:", CATALOGUE, lambda: NOW)
    store.insert_rows(
        SIGN_INS, [{"Timestamp": day, "RequestId": day, "ErrorCode": 50000 + n} for n, day in enumerate(DAYS)]
    )
    yield store
    store.close()


def seen(store, query):
    with store.hunting_cursor() as cursor:
        return run_kql(cursor, query, schema=store.schema()).rows


def truth(store):
    return [json.loads(row) for row in store.rows(SIGN_INS)]


def kinds(store):
    return {name: kind for name, _, _, kind in seen(store, f"{SIGN_INS} | getschema")}


def test_a_column_that_comes_has_values_from_a_moment_on_and_is_null_before_it(store):
    assert (
        add_column(store, SIGN_INS, Column("RiskScore", "int"), since=datetime(2026, 11, 15, tzinfo=UTC), value=7) == 2
    )
    store.insert_rows(SIGN_INS, [{"Timestamp": "2026-11-21T00:00:00Z", "RiskScore": 9}])
    assert list(kinds(store).items())[-1] == ("RiskScore", "int")
    assert seen(store, f"{SIGN_INS} | project Timestamp, RiskScore | order by Timestamp asc") == [
        (DAYS[0], None),
        (DAYS[1], 7),
        (DAYS[2], 7),
        ("2026-11-21T00:00:00Z", 9),
    ]
    assert [row.get("RiskScore") for row in truth(store)] == [None, 7, 7, 9]


def test_a_column_that_goes_is_in_no_answer_and_takes_no_value(store):
    drop_column(store, SIGN_INS, "ErrorCode")
    assert "ErrorCode" not in kinds(store)
    assert all("ErrorCode" not in row and row["RequestId"] for row in truth(store))
    with pytest.raises(SourceError, match="has no column ErrorCode"):
        store.insert_rows(SIGN_INS, [{"Timestamp": DAYS[0], "ErrorCode": 1}])


def test_a_column_of_another_type_keeps_the_values_of_older_rows_as_text(store):
    retype_column(store, SIGN_INS, "ErrorCode", "string")
    retype_column(store, SIGN_INS, "RiskState", "string")
    store.insert_rows(SIGN_INS, [{"Timestamp": "2026-11-21T00:00:00Z", "ErrorCode": "AADSTS50126"}])
    store.insert_rows(SIGN_INS, [{"Timestamp": "2026-11-22T00:00:00Z"}])
    assert kinds(store)["ErrorCode"] == "string"
    codes = ["50000", "50001", "50002", "AADSTS50126", ""]
    assert [row for (row,) in seen(store, f"{SIGN_INS} | order by Timestamp asc | project ErrorCode")] == codes
    assert [row["ErrorCode"] for row in truth(store)] == codes
    # Null of a string is the empty text.
    assert {row["RiskState"] for row in truth(store)} == {""}


def test_what_a_new_type_does_not_hold_is_null(store):
    retype_column(store, SIGN_INS, "ErrorCode", "string")
    store.insert_rows(SIGN_INS, [{"Timestamp": "2026-11-21T00:00:00Z", "ErrorCode": "AADSTS50126"}])
    retype_column(store, SIGN_INS, "ErrorCode", "int")
    assert [row.get("ErrorCode") for row in truth(store)] == [50000, 50001, 50002, None]


@pytest.mark.parametrize("kind", sorted(KQL_TYPES - {"string"}))
def test_every_type_can_become_text_and_what_it_was_again(store, kind):
    values = {
        "bool": True, "datetime": "2026-11-01T00:00:00.1234567Z", "decimal": "1.5", "dynamic": {"a": [1, "x"]},
        "guid": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "int": 5, "long": 9007199254740993, "real": 0.5,
        "timespan": "01:02:03",
    }  # fmt: skip
    assert set(values) == set(DUCKDB_TYPES) - {"string"}
    add_column(store, SIGN_INS, Column("Later", kind), since=datetime(2026, 11, 15, tzinfo=UTC), value=values[kind])
    before = [row.get("Later") for row in truth(store)]
    retype_column(store, SIGN_INS, "Later", "string")
    texts = [row["Later"] for row in truth(store)]
    assert texts[0] == ""
    assert texts[1] == texts[2] != ""
    retype_column(store, SIGN_INS, "Later", kind)
    assert [row.get("Later") for row in truth(store)] == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda store: add_column(store, SIGN_INS, Column("errorcode", "int")), "has a column errorcode already"),
        (lambda store: add_column(store, SIGN_INS, Column("Later", "text")), "is no type"),
        (lambda store: add_column(store, SIGN_INS, Column("Later", "int"), value="x"), "does not fit"),
        (lambda store: add_column(store, "NoSuchTable", Column("Later", "int")), "no table 'NoSuchTable'"),
        (lambda store: drop_column(store, SIGN_INS, "Later"), "has no column Later"),
        (lambda store: drop_column(store, SIGN_INS, "Timestamp"), "is the time of the rows"),
        (lambda store: retype_column(store, SIGN_INS, "Timestamp", "string"), "is the time of the rows"),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(store, change, reason):
    before = kinds(store), truth(store)
    with pytest.raises(SourceError, match=reason):
        change(store)
    assert (kinds(store), truth(store)) == before


def test_the_admin_endpoint_changes_a_table_while_it_is_in_use_and_the_change_outlives_a_restart(open_tenant, tmp_path):
    day = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def ask(tenant, body):
        answer = requests.post(tenant.url("admin") + "/source/columns", json=body, timeout=10)
        return answer.status_code, answer.json()

    with open_tenant(tmp_path, scale=0, catalogue=CATALOGUE) as tenant:
        tenant.source.insert_rows(SIGN_INS, [{"Timestamp": day, "ErrorCode": 5}])
        assert hunt(tenant, SIGN_INS).json()["results"][0]["ErrorCode"] == 5
        status, told = ask(tenant, {"table": SIGN_INS, "add": "RiskScore", "type": "long", "since": day, "value": 3})
        assert (status, told["filled"], told["columns"]["RiskScore"]) == (200, 1, "long")
        assert ask(tenant, {"table": SIGN_INS, "retype": "ErrorCode", "type": "string"})[0] == 200
        assert "Country" not in ask(tenant, {"table": SIGN_INS, "drop": "Country"})[1]["columns"]
        (row,) = hunt(tenant, SIGN_INS).json()["results"]
        assert (row["ErrorCode"], row["RiskScore"], "Country" in row) == ("5", 3, False)
        assert ask(tenant, {"table": SIGN_INS, "drop": "Country"}) == (
            400,
            {"error": f"{SIGN_INS} has no column Country"},
        )
        assert ask(tenant, {"table": SIGN_INS})[0] == ask(tenant, {"drop": "Country"})[0] == 400
    with open_tenant(tmp_path, scale=0, catalogue=CATALOGUE) as tenant:
        shown = requests.get(tenant.url("admin") + "/source/columns", {"table": SIGN_INS}, timeout=10).json()
        schema = {
            row["ColumnName"]: row["ColumnType"] for row in hunt(tenant, f"{SIGN_INS} | getschema").json()["results"]
        }
        assert shown == {"table": SIGN_INS, "columns": schema}
        assert schema["ErrorCode"] == "string"
