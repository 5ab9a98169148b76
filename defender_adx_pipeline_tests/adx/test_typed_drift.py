"""What counts as a difference between tenant, catalogue and typed table, and the commands that mend it."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.adx.typed_drift import Difference, differences, kql_type, mending
from defender_adx_pipeline.adx.typed_schema import DATABASE_SCHEMA, UnreadableSchemaError, columns_of, existing_columns
from defender_adx_pipeline.adx.typed_tables import (
    OVERRIDES,
    expand_function,
    one_command,
    record_field,
    twin,
    typed_columns,
    typed_table_name,
    widening,
)
from defender_adx_pipeline.catalogue import KQL_TYPES, SNAPSHOT_TIME, Column, DefenderTable, load_catalogue

CATALOGUE = load_catalogue()
ALERTS, PROCESSES, KNOWN, SIGN_INS = (
    CATALOGUE[name]
    for name in (
        "AlertInfo",
        "DeviceProcessEvents",
        "DeviceTvmSoftwareVulnerabilitiesKB",
        "EntraIdSignInEvents",
    )
)
TABLES = tuple(CATALOGUE.values())

names = st.sampled_from(["Title", "title", "Category", "New", "NEW", "Timestamp"])
columns = st.dictionaries(names, st.sampled_from(sorted(KQL_TYPES)), max_size=6).map(
    lambda found: tuple(Column(name, kind) for name, kind in found.items())
)
twins = st.sets(st.sampled_from([twin("Title", "long"), twin("Title", "string"), twin("New", "int")]))


def told(found: Sequence[Difference]) -> list[tuple[str, str]]:
    return [(one.column, one.kind) for one in found]


def after(found: Sequence[str], existing: Sequence[Column]) -> tuple[Column, ...]:
    """The columns that a typed table has when the commands were carried out, read from their text."""
    if not found:
        return tuple(existing)
    # Names that begin with a small letter are quoted.
    table, function = (re.sub(r"\['(\w+)'\]", r"\1", text) for text in found)
    (schema,) = re.findall(r"\((.+)\)$", table, re.MULTILINE)
    added = [Column(*one.split(": ")) for one in schema.split(", ")]
    # The function has every column of the table, in its order.
    wanted = [column.name for column in (*existing, *added)]
    assert re.findall(r"^        (\w+) = ", function, re.MULTILINE) == wanted
    return (*existing, *added)


# --- what counts --------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_tenant_as_documented_differs_in_nothing_with_or_without_undocumented_columns(table: DefenderTable) -> None:
    for tenant in (table.columns, (*table.columns, *table.undocumented_columns), table.columns[::-1]):
        assert differences(table, tenant, typed_columns(table)) == ()
        assert mending(table, tenant, typed_columns(table)) == ()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        *((kind, kind) for kind in sorted(KQL_TYPES)),
        *(("sbyte", "bool"), ("SByte", "bool"), ("System.SByte", "bool"), ("Boolean", "bool"), ("double", "real")),
        *(("Double", "real"), ("System.Object", "dynamic"), ("object", "dynamic"), ("Int64", "long")),
        *(("System.Int32", "int"), ("DateTime", "datetime"), ("String", "string"), ("TimeSpan", "timespan")),
        *(("System.Data.SqlTypes.SqlDecimal", "decimal"), ("Guid", "guid"), ("vector16", "vector16")),
    ],
)
def test_a_type_is_compared_by_what_it_means(said: str, meant: str) -> None:
    assert kql_type(said) == meant


def test_a_tenant_that_calls_types_by_other_names_differs_in_nothing() -> None:
    other = {"bool": "SByte", "real": "Double", "dynamic": "Object", "long": "Int64", "datetime": "DateTime"}
    tenant = [Column(column.name, other.get(column.type, column.type)) for column in SIGN_INS.columns]
    assert differences(SIGN_INS, tenant, typed_columns(SIGN_INS)) == ()


@pytest.mark.parametrize(("name", "column"), OVERRIDES)
def test_a_type_that_is_corrected_is_none_whichever_of_the_two_the_tenant_has(name: str, column: str) -> None:
    table = CATALOGUE[name]
    for kind in (OVERRIDES[name, column], str(table.column_type(column))):
        tenant = [Column(one.name, kind if one.name == column else one.type) for one in table.columns]
        assert differences(table, tenant, typed_columns(table)) == ()
    third = [Column(one.name, "guid" if one.name == column else one.type) for one in table.columns]
    assert told(differences(table, third, typed_columns(table))) == [(column, "retyped")]


def test_each_kind_is_told_with_the_types_of_all_three_sides() -> None:
    tenant = [Column("Title", "dynamic"), Column("New", "Int64"), *ALERTS.columns[3:]]
    existing = [column for column in typed_columns(ALERTS) if column.name != ALERTS.columns[-1].name]
    found = {one.column: one for one in differences(ALERTS, tenant, existing)}
    last, gone = ALERTS.columns[-1], [column for column in ALERTS.columns[:3] if column.name != "Title"]
    assert found.pop("Title") == Difference("AlertInfo", "Title", "retyped", "dynamic", "string", "string")
    assert found.pop("New") == Difference("AlertInfo", "New", "added", "long", None, None)
    assert found.pop(last.name) == Difference("AlertInfo", last.name, "lacking", last.type, None, last.type)
    assert {(one.column, one.kind) for one in found.values()} == {(column.name, "dropped") for column in gone}


def test_a_dropped_column_is_told_until_the_catalogue_lists_it_no_more() -> None:
    existing = typed_columns(ALERTS)
    tenant = [column for column in ALERTS.columns if column.name != "Title"]
    assert told(differences(ALERTS, tenant, existing)) == [("Title", "dropped")]
    assert differences(replace(ALERTS, columns=tuple(tenant)), tenant, existing) == ()


def test_names_that_differ_in_case_are_two_columns_unless_both_sides_have_one_of_them() -> None:
    tenant = [Column("TITLE" if column.name == "Title" else column.name, column.type) for column in ALERTS.columns]
    found = differences(ALERTS, tenant, typed_columns(ALERTS))
    assert sorted(told(found)) == [("TITLE", "added"), ("Title", "dropped")]
    one_spelling = [column for column in PROCESSES.columns if column.name != "LogonID"]
    assert differences(PROCESSES, one_spelling, typed_columns(PROCESSES)) == ()


def test_the_time_of_a_snapshot_is_ours_and_the_tenant_need_not_have_it() -> None:
    existing = typed_columns(KNOWN)
    assert existing[0].name == SNAPSHOT_TIME
    assert differences(KNOWN, KNOWN.columns, existing) == ()


def test_a_type_that_is_not_known_is_told_and_nothing_is_done_about_it() -> None:
    tenant = (*ALERTS.columns, Column("Embedding", "vector16"))
    (one,) = differences(ALERTS, tenant, typed_columns(ALERTS))
    assert (one.kind, one.new_column) == ("added", None)
    assert "vector16 is no type that this version knows" in str(one)
    assert mending(ALERTS, tenant, typed_columns(ALERTS)) == ()


def test_a_sentence_says_what_to_do() -> None:
    retyped = Difference("AlertInfo", "Title", "retyped", "dynamic", "string", "string")
    for part in ("AlertInfo.Title", "schema apply AlertInfo", "Title_dynamic", "schema backfill AlertInfo"):
        assert part in str(retyped)
    assert "stays" in str(Difference("AlertInfo", "Title", "dropped", None, "string", "string"))


# --- what mends it ------------------------------------------------------------------------------


def test_a_retyped_column_gets_a_twin_that_is_filled_from_its_field() -> None:
    tenant = [Column(one.name, "string" if one.name == "ErrorCode" else one.type) for one in SIGN_INS.columns]
    existing = typed_columns(SIGN_INS)
    commands = mending(SIGN_INS, tenant, existing)
    assert commands[0] == ".create-merge table EntraIdSignInEvents (ErrorCode_string: string)\n"
    assert '        ErrorCode = toint(tostring(Records["ErrorCode"])),\n' in commands[1]
    assert '        ErrorCode_string = tostring(Records["ErrorCode"])\n' in commands[1]
    mended = (*existing, twin("ErrorCode", "string"))
    assert differences(SIGN_INS, tenant, mended) == ()
    # As it was before: nothing differs either, since both types are there.
    assert differences(SIGN_INS, SIGN_INS.columns, mended) == ()
    # And a third type gets a third column.
    third = [Column(one.name, "long" if one.name == "ErrorCode" else one.type) for one in SIGN_INS.columns]
    assert "(ErrorCode_long: long)" in mending(SIGN_INS, third, mended)[0]


def test_only_a_column_beside_one_of_another_type_is_filled_from_that_ones_field() -> None:
    existing = [Column("Title", "string"), Column("Score", "long"), Column("Lone_int", "int")]
    cases = {
        Column("Score_string", "string"): "Score",
        Column("Score_long", "long"): "Score_long",  # the same type: no twin
        Column("Score_string", "int"): "Score_string",  # does not end in its type
        Column("Lone_int", "int"): "Lone_int",  # nothing beside it
        Column("Title", "string"): "Title",
    }
    for column, field in cases.items():
        assert record_field(ALERTS, column, [*existing, column]) == field


def test_what_the_tenant_and_the_catalogue_have_is_added_in_one_go() -> None:
    last = ALERTS.columns[-1]
    tenant = [*ALERTS.columns[:-1], Column(last.name, "guid"), Column("New", "real")]
    existing = typed_columns(ALERTS)[:-1]
    mended = after(mending(ALERTS, tenant, existing), existing)
    assert set(mended) == {*typed_columns(ALERTS), Column("New", "real"), twin(last.name, "guid")}
    assert differences(ALERTS, tenant, mended) == ()


@given(tenant=columns, existing=columns, beside=twins)
def test_after_mending_only_what_the_tenant_dropped_is_told(
    tenant: tuple[Column, ...], existing: tuple[Column, ...], beside: set[Column]
) -> None:
    existing = (*existing, *beside)
    mended = after(mending(ALERTS, tenant, existing), existing)
    # What is there stays where it is.
    assert mended[: len(existing)] == existing
    assert {one.kind for one in differences(ALERTS, tenant, mended)} <= {"dropped"}
    assert mending(ALERTS, tenant, mended) == ()


def test_a_column_of_the_tenants_own_that_has_the_name_of_a_twin_is_not_added_twice() -> None:
    tenant = [Column("Title", "long"), Column("Title_long", "bool"), *ALERTS.columns[3:]]
    commands = mending(ALERTS, tenant, typed_columns(ALERTS))
    assert commands[0] == ".create-merge table AlertInfo (Title_long: bool)\n"
    assert 'Title_long = tobool(Records["Title_long"])' in commands[1]


def test_a_script_has_no_blank_line_so_that_it_is_one_statement_of_a_file() -> None:
    commands = widening(ALERTS, (), [Column("New", "string")])
    script = one_command(commands)
    assert script.startswith(".execute database script with (ThrowOnErrors=true) <|\n.create-merge table AlertInfo (")
    assert "\n\n" not in script
    assert commands[1] == expand_function(ALERTS, (Column("New", "string"),))


# --- reading what there is ----------------------------------------------------------------------


NET_TYPES = {
    "System.String": "string",
    "System.DateTime": "datetime",
    "System.Object": "dynamic",
    "System.Int64": "long",
    "System.Int32": "int",
    "System.SByte": "bool",
    "System.Guid": "guid",
    "System.Double": "real",
    "System.Data.SqlTypes.SqlDecimal": "decimal",
    "System.TimeSpan": "timespan",
}


class Answering:
    """A database that answers one command with given rows."""

    def __init__(self, rows: Sequence[dict[str, object]]) -> None:
        self.rows = rows

    def command(self, text: str, *, idempotent: bool) -> Sequence[dict[str, object]]:
        assert (text, idempotent) == (DATABASE_SCHEMA, True)
        return self.rows


@pytest.mark.parametrize("as_text", [True, False])
def test_columns_come_in_the_order_of_the_table_and_only_of_typed_tables_that_are_there(as_text: bool) -> None:
    stored = {
        "AlertInfo": [("B", "long"), ("A", "string")],
        "AlertInfoRaw": [("Records", "dynamic")],
        typed_table_name(KNOWN): [("SnapshotTime", "datetime")],
    }
    tables = {
        name: {"OrderedColumns": [{"Name": one, "Type": "?", "CslType": kind} for one, kind in found]}
        for name, found in stored.items()
    }
    schema = {"Databases": {"Defender": {"Name": "Defender", "Tables": tables, "Functions": {}}}}
    said = json.dumps(schema) if as_text else schema
    assert existing_columns(Answering([{"DatabaseSchema": said}]), [ALERTS, KNOWN, SIGN_INS]) == {
        "AlertInfo": (Column("B", "long"), Column("A", "string")),
        KNOWN.name: (Column("SnapshotTime", "datetime"),),
    }


def one_table(*columns: dict[str, object]) -> list[dict[str, object]]:
    tables = {"AlertInfo": {"OrderedColumns": columns}}
    return [{"DatabaseSchema": json.dumps({"Databases": {"Defender": {"Tables": tables}}})}]


@pytest.mark.parametrize(("net", "kind"), sorted(NET_TYPES.items()))
def test_a_type_may_be_told_by_its_net_name_alone_as_in_the_docs(net: str, kind: str) -> None:
    rows = one_table({"Name": "A", "Type": net}, {"Name": "B", "Type": net, "CslType": "guid"})
    assert existing_columns(Answering(rows), [ALERTS])["AlertInfo"] == (Column("A", kind), Column("B", "guid"))


@pytest.mark.parametrize("column", [{}, {"Type": "System.Complex"}, {"CslType": None, "Type": ""}])
def test_a_column_whose_type_is_not_told_is_named(column: dict[str, object]) -> None:
    with pytest.raises(UnreadableSchemaError, match=r"column Strange has CslType .* Nothing was changed"):
        existing_columns(
            Answering(one_table({"Name": "A", "CslType": "long"}, {"Name": "Strange", **column})), [ALERTS]
        )


@pytest.mark.parametrize("rows", [[], [{"Schema": "{}"}], [{"DatabaseSchema": "{"}], [{"DatabaseSchema": "{}"}]])
def test_an_answer_that_cannot_be_read_is_an_error_and_not_a_database_without_tables(
    rows: list[dict[str, object]],
) -> None:
    with pytest.raises(UnreadableSchemaError, match="Nothing was changed"):
        existing_columns(Answering(rows), [ALERTS])


@pytest.mark.parametrize("rows", [[], [{"Schema": "{"}], [{"Schema": "{}"}], [{"Columns": "[]"}]])
def test_nor_is_it_a_table_without_columns(rows: list[dict[str, object]]) -> None:
    class OneTable:
        def command(self, text: str, *, idempotent: bool) -> list[dict[str, object]]:
            assert (text, idempotent) == (".show table AlertInfo schema as json", True)
            return rows

    with pytest.raises(UnreadableSchemaError, match="AlertInfo schema as json"):
        columns_of(OneTable(), ALERTS)
