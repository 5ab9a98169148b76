"""Cutting scripts into statements, and bringing a database up to them: new, repeated, and made by an older script."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxPermissionError
from defender_adx_pipeline.adx.monitoring_kql import FUNCTIONS
from defender_adx_pipeline.adx.schema import (
    STATE_TABLES,
    STATE_VIEWS,
    BootstrapError,
    Placeholders,
    SchemaScriptError,
    bootstrap,
    inspect,
    kql_folder,
    statements,
)
from defender_adx_pipeline.adx.scripts import read_script
from defender_adx_pipeline.adx.snapshot_views import snapshot_functions
from defender_adx_pipeline.adx.state_kql import LEDGER_COSTS
from defender_adx_pipeline.adx.typed_scripts import TYPED
from defender_adx_pipeline.adx.typed_tables import update_policy
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.quoting import InvalidNameError
from defender_adx_pipeline_tests.conftest import OpenTenant

pytestmark = pytest.mark.long

CATALOGUE = load_catalogue()
CLIENT_ID = "11111111-1111-1111-1111-111111111111"
TENANT_ID = "22222222-2222-2222-2222-222222222222"
ROLE = "// 99 A test.\n// Run by: Database Admin.\n\n"


class Database:
    """A database that notes what it is told and answers `.show` from what it was given."""

    database = "defender"

    def __init__(self, **objects: Any) -> None:
        self.tables: set[str] = set(objects.get("tables", ()))
        self.functions: set[str] = set(objects.get("functions", ()))
        self.views: set[str] = set(objects.get("views", ()))
        self.columns: dict[str, str] = dict(objects.get("columns", {}))
        self.typed: dict[str, dict[str, str]] = dict(objects.get("typed", {}))
        self.policies: dict[str, str] = dict(objects.get("policies", {}))
        self.ledger: Sequence[str] = objects.get("ledger", LEDGER_COSTS)
        self.refuses: str | None = objects.get("refuses")
        self.sent: list[str] = []

    def command(self, text: str, *, idempotent: bool) -> Sequence[Mapping[str, Any]]:
        assert idempotent
        if text.startswith(".show"):
            return self._show(text)
        if self.refuses is not None and self.refuses in text:
            raise AdxPermissionError("Principal is not authorized.")
        self.sent.append(text)
        self.tables.update(re.findall(r"^\.create-merge table (\w+)", text))
        self.functions.update(re.findall(r"^((?:Vw|Monitor)\w+)\(.*\) \{", text, re.MULTILINE))
        if text.startswith(".create-merge table MigrationConfiguration"):
            for name, kind in re.findall(r"^    (\w+): (\w+)", text, re.MULTILINE):
                self.columns.setdefault(name, kind)
        return []

    def query(self, kql: str) -> Sequence[Mapping[str, Any]]:
        if kql == "['MigrationLedger'] | getschema":
            return [{"ColumnName": name, "ColumnType": "long"} for name in self.ledger]
        assert kql == "['MigrationConfiguration'] | getschema"
        return [{"ColumnName": name, "ColumnType": kind} for name, kind in self.columns.items()]

    def _show(self, text: str) -> Sequence[Mapping[str, Any]]:
        if text == ".show database schema as json":
            return [{"DatabaseSchema": json.dumps(self._schema())}]
        if text == ".show table * policy update":
            return [{"EntityName": f"[defender].[{name}]", "Policy": policy} for name, policy in self.policies.items()]
        if text == ".show tables":
            return [{"TableName": name} for name in sorted(self.tables)]
        if text.endswith("ingestion json mappings"):
            return [{"Name": "DynamicJsonMap"}] if "DeviceInfoRaw" in text else []
        return [{"Name": name} for name in sorted(self.functions if text == ".show functions" else self.views)]

    def _schema(self) -> dict[str, Any]:
        tables = {
            name: {"OrderedColumns": [{"Name": column, "CslType": kind} for column, kind in columns.items()]}
            for name, columns in self.typed.items()
        }
        return {"Databases": {"Defender": {"Tables": tables}}}


OLDER_COLUMNS = {
    "SourceTable": "string",
    "DestinationTable": "string",
    "WatermarkColumn": "string",
    "LastRefreshedTime": "datetime",
    "LoadType": "string",
    "IsActive": "bool",
}


def run(database: Database, **options: Any) -> Any:
    return bootstrap(database, **{"client_id": CLIENT_ID, "tenant_id": TENANT_ID, "retention_days": 730, **options})


# --- scripts ------------------------------------------------------------------------------------


def test_a_statement_ends_at_a_blank_line_outside_brackets_and_blocks() -> None:
    text = (
        f"{ROLE}.show tables\n\n"
        "// A comment above.\n.create-or-alter function F() {\n    T // with ) and {\n\n"
        "    | where A == \"}{\" and B == '('\n}\n"
        '// Another.\n.alter table T policy x ```{\n\n"a": "http://b/`"\n}```\n'
    )
    found = read_script("99_test.kql", text)
    assert [(item.line, item.text.split("\n")[0]) for item in found] == [
        (4, ".show tables"),
        (7, ".create-or-alter function F() {"),
        (13, ".alter table T policy x ```{"),
    ]
    assert found[1].text.endswith("\n}")
    assert found[2].text.endswith("\n}```")
    assert {item.role for item in found} == {"Database Admin"}


@given(
    st.lists(
        st.sampled_from([".show tables", ".f() {\n\n  // }\n}", 'T | where A == "\\"("', ".p ```{(\n\n```"]), max_size=6
    )
)
def test_cutting_a_script_gives_back_the_statements_that_it_was_made_of(parts: list[str]) -> None:
    text = ROLE + "\n\n".join(f"// {index} comment\n{part}" for index, part in enumerate(parts))
    assert [item.text for item in read_script("99_test.kql", text)] == parts


@pytest.mark.parametrize("text", [".f() {\n T\n\n.show tables", ".alter x ```\n{}\n"])
def test_a_statement_that_is_not_closed_is_an_error_with_its_line(text: str) -> None:
    with pytest.raises(SchemaScriptError, match=r"99_test\.kql: the statement that begins in line 4 is not closed"):
        read_script("99_test.kql", ROLE + text)


def test_a_script_that_does_not_say_who_runs_it_is_an_error() -> None:
    with pytest.raises(SchemaScriptError, match="Run by"):
        read_script("99_test.kql", "// 99 A test.\n\n.show tables\n")


def test_unknown_names_stay_in_braces_for_a_person_to_fill_in() -> None:
    roles = [item for item in statements(Placeholders()) if item.file == "30_roles.kql"]
    assert {item.placeholders for item in roles} == {("Database", "ClientId", "TenantId")}


@pytest.mark.parametrize("value", ["x') | .drop table y", "a;b", "", "a b", "-a", "é"])
def test_an_identity_that_could_end_its_quotes_is_refused(value: str) -> None:
    with pytest.raises(SchemaScriptError, match="AZURE_CLIENT_ID"):
        Placeholders("defender", value, TENANT_ID)
    with pytest.raises(SchemaScriptError, match="AZURE_TENANT_ID"):
        Placeholders("defender", CLIENT_ID, value)


def test_a_database_name_that_could_end_its_quotes_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        Placeholders("x'] | .drop table y")


def test_the_scripts_are_found_beside_the_package() -> None:
    assert (kql_folder() / "10_migration_configuration.kql").is_file()


# --- bootstrap ----------------------------------------------------------------------------------


def test_a_new_database_gets_every_statement_in_the_order_of_the_scripts() -> None:
    database = Database()
    report = run(database)
    names = Placeholders("defender", CLIENT_ID, TENANT_ID, retention_days=730)
    # Rows come last: only then the table has all its columns.
    rows_last = sorted(statements(names), key=lambda item: item.file.startswith("40_"))
    assert database.sent == [item.text for item in rows_last]
    assert [item.text for item in report.applied] == database.sent
    assert report.skipped == ()
    assert report.found == ()


def test_without_grants_the_roles_are_left_out_and_it_says_so() -> None:
    database = Database()
    report = run(database, client_id=None, tenant_id=None, grants=False)
    assert not any(text.startswith(".add") for text in database.sent)
    assert {item.file for item in report.skipped} == {"30_roles.kql", "56_restricted_tables.kql"}
    assert "not granted" in report.found[0]


def test_without_a_number_of_days_retention_stays_as_it_is() -> None:
    database = Database()
    report = run(database, retention_days=None)
    assert [item.placeholders for item in report.skipped] == [("RetentionDays",)]
    assert not any("policy retention" in text for text in database.sent)


def test_without_typed_tables_nothing_is_said_of_them() -> None:
    database = Database()
    report = run(database, typed=False)
    assert not {item.file for item in (*report.applied, *report.skipped)} & set(TYPED)


def test_grants_without_an_identity_send_nothing() -> None:
    database = Database()
    with pytest.raises(SchemaScriptError, match="AZURE_CLIENT_ID and AZURE_TENANT_ID"):
        run(database, client_id=None)
    assert database.sent == []


def test_a_materialized_view_of_the_older_script_is_left_and_told_with_what_replaces_it() -> None:
    database = Database(
        tables={"MigrationConfiguration"}, views={"VwLatestMigrationConfiguration"}, columns=OLDER_COLUMNS
    )
    report = run(database)
    assert not any("VwLatestMigrationConfiguration() {" in text for text in database.sent)
    assert [item.file for item in report.skipped] == ["11_vw_latest_migration_configuration.kql"]
    assert "`.drop materialized-view VwLatestMigrationConfiguration`" in report.found[0]
    assert len(report.applied) == len(statements(Placeholders())) - 1


def test_rows_follow_the_order_of_columns_that_the_table_has() -> None:
    database = Database(
        tables={"MigrationConfiguration"}, columns={**OLDER_COLUMNS, "Owner": "string", "Tries": "long"}
    )
    report = run(database)
    assert database.sent[-1].endswith(
        "\n| project SourceTable, DestinationTable, WatermarkColumn, LastRefreshedTime, LoadType, IsActive,"
        " ['Owner'] = \"\", ['Tries'] = long(null), LastRefreshedTimeInString"
    )
    assert "go by position" in report.found[0]


def test_a_snapshot_table_gets_its_functions_and_a_row_that_asks_for_all_of_it() -> None:
    database = Database()
    run(database, tables=[replace(CATALOGUE["ExposureGraphNodes"], name="ContosoNodes")])
    assert {f"VwContosoNodes{suffix}" for suffix in ("At", "Latest", "Changes", "History")} <= database.functions
    assert '"ContosoNodes", "ContosoNodesRaw", "None", datetime(1900-01-01)' in database.sent[-1]
    assert '"Full", true\n' in database.sent[-1]


def test_a_table_of_the_users_own_gets_its_objects_like_any_other() -> None:
    database = Database()
    own = replace(CATALOGUE["DeviceInfo"], name="ContosoEvents")
    run(database, tables=[own])
    text = "\n".join(database.sent)
    assert "ContosoEventsRaw (Records: dynamic)" in text
    assert '"ContosoEvents", "ContosoEventsRaw", "Timestamp"' in text
    assert "DeviceInfoRaw" not in text


def test_no_tables_at_all_still_make_the_state_tables() -> None:
    database = Database()
    report = run(database, tables=[])
    files = {item.file.removeprefix("monitoring/")[:2] for item in report.applied}
    assert files == {"10", "11", "12", "13", "14", "30", "60", "61", "62", "63", "64"}
    assert report.skipped == ()


def test_a_refused_statement_is_told_with_its_file_its_role_and_what_was_applied() -> None:
    database = Database(refuses=".add database")
    with pytest.raises(BootstrapError) as caught:
        run(database)
    message = str(caught.value)
    assert "kql/30_roles.kql, line 8" in message
    assert "It takes: Database Admin." in message
    assert f"the {len(database.sent)} statements before this one are applied" in message


def test_a_script_that_is_refused_halfway_is_told_with_what_happens_to_loads() -> None:
    database = Database(typed={"AlertInfo": {"Timestamp": "datetime"}}, refuses=".execute database script")
    with pytest.raises(BootstrapError) as caught:
        run(database, tables=FEW)
    for part in ("kql/50_typed_tables.kql", "It takes: Database Admin", "stay Queued", "Nothing is lost"):
        assert part in str(caught.value)
    assert not any("ExpandAlertInfo" in text for text in database.sent)


def test_inspect_names_what_is_missing() -> None:
    database = Database(
        tables={"MigrationLedger", "DeviceInfoRaw", "AlertInfoRaw"}, functions={"VwLatestMigrationLedger"}
    )
    database.functions.update({"VwExposureGraphNodesAt", "VwExposureGraphNodesLatest", "MonitorLag"})
    database.ledger = ("RunId", "Calls")
    named = ("DeviceInfo", "AlertInfo", "DeviceEvents", "ExposureGraphNodes")
    state = inspect(database, [CATALOGUE[name] for name in named], typed=False)
    assert state.missing == (
        "table MigrationConfiguration",
        "table MigrationAuditLog",
        "table MigrationDeadLetter",
        "view VwLatestMigrationConfiguration",
        "view VwPublishedSnapshots",
        *(f"function {name}" for name in FUNCTIONS if name != "MonitorLag"),
        "column QuotaWaitSeconds of table MigrationLedger",
        "table DeviceEventsRaw",
        "table ExposureGraphNodesRaw",
        "mapping DynamicJsonMap of table AlertInfoRaw",
        "function VwExposureGraphNodesChanges",
        "function VwExposureGraphNodesHistory",
    )
    assert state.configuration_view is None
    assert state.configuration_columns == {}


def test_inspect_names_what_a_typed_table_lacks_in_a_few_commands() -> None:
    complete, other, snapshot = (CATALOGUE[name] for name in ("DeviceInfo", "AlertInfo", "ExposureGraphNodes"))
    database = Database(
        tables={*STATE_TABLES, "DeviceInfoRaw", "AlertInfoRaw", "ExposureGraphNodesRaw", "DeviceInfo", "AlertInfo"},
        functions={
            *STATE_VIEWS,
            *FUNCTIONS,
            *snapshot_functions(snapshot),
            "ExpandDeviceInfo",
            "ExposureGraphNodesHistory",
        },
        policies={"DeviceInfo": update_policy(complete), "AlertInfo": "null"},
    )
    state = inspect(database, [complete, other, snapshot])
    assert [what for what in state.missing if not what.startswith("mapping")] == [
        "function ExpandAlertInfo",
        "update policy of table AlertInfo with ExpandAlertInfo()",
        "typed table ExposureGraphNodesSnapshots",
        "function ExpandExposureGraphNodes",
        "function ExposureGraphNodes",
    ]


def test_inspect_tells_of_a_column_that_is_missing_and_of_one_with_another_type() -> None:
    columns = {**OLDER_COLUMNS, "LastRefreshedTime": "string"}
    state = inspect(Database(tables={"MigrationConfiguration"}, columns=columns))
    assert "no column LastRefreshedTimeInString" in state.findings[0]
    assert "LastRefreshedTime is string and not datetime" in state.findings[1]


# --- against the local tenant's engine, through the real Kusto client ----------------------------

FEW = (CATALOGUE["AlertInfo"], CATALOGUE["DeviceInfo"], CATALOGUE["DeviceTvmHardwareFirmware"])
OLDER_SHAPE = ", ".join(f"{name}: {kind}" for name, kind in OLDER_COLUMNS.items())
OLDER_SCRIPT = (
    f".create table MigrationConfiguration ({OLDER_SHAPE})",
    """.create async materialized-view with (backfill = true)
    VwLatestMigrationConfiguration on table MigrationConfiguration {
        MigrationConfiguration
        | where IsActive == true
        | summarize arg_max(LastRefreshedTime, *) by SourceTable
    }""",
    f""".append MigrationConfiguration <| datatable({OLDER_SHAPE}) [
        "DeviceInfo", "Devices", "Timestamp", datetime(2026-08-01T01:02:03.1234567Z), "Incr", true,
        "DeviceTvmHardwareFirmware", "Firmware", "None", datetime(2026-08-01), "Incr", true
    ]""",
)


@pytest.fixture
def adx(open_tenant: OpenTenant) -> Iterator[AdxClient]:
    """A client of an empty database."""
    with open_tenant(scale=0) as tenant:
        environment = tenant.environment()
        with AdxClient(environment["ADX_CLUSTER_URI"], environment["ADX_DATABASE"]) as client:
            yield client


def rows_of(client: AdxClient, table: str) -> list[Mapping[str, Any]]:
    return client.query(f"VwLatestMigrationConfiguration | where SourceTable == '{table}'")


def test_a_database_is_complete_after_bootstrap_and_a_second_one_resets_no_watermark(adx: AdxClient) -> None:
    run(adx)
    state = inspect(adx, tuple(CATALOGUE.values()))
    assert (state.missing, state.findings, state.configuration_view) == ((), (), "function")
    assert len(adx.query("MigrationConfiguration")) == len(CATALOGUE)
    (row,) = rows_of(adx, "DeviceInfo")
    assert row["LastRefreshedTimeInString"] == "1900-01-01T00:00:00.0000000Z"
    adx.command(
        """.append MigrationConfiguration <| MigrationConfiguration
        | where SourceTable == "DeviceInfo"
        | extend IsActive = false, LastRefreshedTimeInString = "2026-08-01T01:02:03.1234567Z"
        | extend LastRefreshedTime = todatetime(LastRefreshedTimeInString)""",
        idempotent=False,
    )
    run(adx, tables=FEW)
    assert len(adx.query("MigrationConfiguration")) == len(CATALOGUE) + 1
    (row,) = rows_of(adx, "DeviceInfo")
    assert row["LastRefreshedTimeInString"] == "2026-08-01T01:02:03.1234567Z"
    assert row["IsActive"] is False


def test_a_database_of_the_older_script_keeps_its_rows_and_its_view(adx: AdxClient) -> None:
    for text in OLDER_SCRIPT:
        adx.command(text, idempotent=False)
    for _ in range(2):
        report = run(adx, tables=FEW)
        assert [item.file for item in report.skipped] == ["11_vw_latest_migration_configuration.kql"]
        assert "is a materialized view" in report.found[0]
    state = inspect(adx, FEW)
    assert (state.missing, state.configuration_view) == ((), "materialized view")
    assert list(state.configuration_columns) == [*OLDER_COLUMNS, "LastRefreshedTimeInString"]
    (taken_over,) = rows_of(adx, "DeviceInfo")
    assert taken_over["DestinationTable"] == "Devices"
    (firmware,) = rows_of(adx, "DeviceTvmHardwareFirmware")
    assert (firmware["DestinationTable"], firmware["LoadType"]) == ("Firmware", "Incr")
    assert len(adx.query("MigrationConfiguration")) == len(FEW)
    (added,) = rows_of(adx, "AlertInfo")
    assert (added["LoadType"], added["IsActive"]) == ("Incr", True)
    assert added["LastRefreshedTimeInString"] == "1900-01-01T00:00:00.0000000Z"


def test_the_materialized_view_is_replaced_as_bootstrap_says(adx: AdxClient) -> None:
    for text in OLDER_SCRIPT:
        adx.command(text, idempotent=False)
    told = re.search(r"`(\.drop materialized-view \w+)`", run(adx, tables=FEW).found[0])
    assert told is not None
    adx.command(told[1], idempotent=True)
    run(adx, tables=FEW)
    assert inspect(adx).configuration_view == "function"
    (row,) = rows_of(adx, "DeviceInfo")
    assert row["LastRefreshedTime"].startswith("2026-08-01T01:02:03.123456")
    assert list(row) == [
        "SourceTable",
        "DestinationTable",
        "WatermarkColumn",
        "LastRefreshedTime",
        "LastRefreshedTimeInString",
        "LoadType",
        "IsActive",
    ]
