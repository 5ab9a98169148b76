"""The scripts about typed tables: that they name every table and column, and what they do to which."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from defender_adx_pipeline.adx.scripts import Placeholders, SchemaScriptError, statements
from defender_adx_pipeline.adx.typed_checks import (
    UncheckedColumnError,
    checked_columns,
    count_names,
    unfit_counts,
    unfit_records,
)
from defender_adx_pipeline.adx.typed_docstrings import column_docstrings
from defender_adx_pipeline.adx.typed_policies import SHORTEST_RETENTION_DAYS
from defender_adx_pipeline.adx.typed_scripts import TYPED
from defender_adx_pipeline.adx.typed_tables import (
    OVERRIDES,
    expand_function,
    typed_columns,
    typed_table_name,
    update_policy,
)
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, load_catalogue
from defender_adx_pipeline.quoting import InvalidNameError

CATALOGUE = load_catalogue()
TABLES = tuple(CATALOGUE.values())
NAMES = Placeholders("defender", "11111111-1111-1111-1111-111111111111", "contoso.com", retention_days=730)
ALL = statements(NAMES)


def texts(number: str) -> list[str]:
    return [item.text for item in ALL if item.file.startswith(f"{number}_")]


def test_the_typed_scripts_can_be_left_out() -> None:
    plain = statements(NAMES, typed=False)
    assert not {item.file for item in plain} & set(TYPED)
    assert [item for item in ALL if item.file not in TYPED] == list(plain)
    assert {item.file for item in ALL} >= set(TYPED)


def test_every_statement_may_be_run_again_and_is_filled_in() -> None:
    idempotent = (".create-merge tables", ".create-or-alter function ", ".alter-merge table ", ".alter table")
    for item in (item for item in ALL if item.file in TYPED):
        assert item.text.startswith((*idempotent, ".add database ['defender'] unrestrictedviewers "))
        assert item.placeholders == ()
        assert item.role


def test_every_table_has_its_columns_in_the_order_of_the_pages_and_a_conversion_of_each() -> None:
    created = dict(re.findall(r"^    (\w+) \((.+?)\)", "\n".join(texts("50")), re.MULTILINE))
    expanded = {re.search(r"^Expand(\w+)\(\)", text, re.MULTILINE)[1]: text for text in texts("52")}
    assert sorted(created) == sorted(map(typed_table_name, TABLES))
    assert sorted(expanded) == sorted(CATALOGUE)
    for table in TABLES:
        columns = [tuple(column.split(": ")) for column in created[typed_table_name(table)].split(", ")]
        assert columns == [(column.name, column.type) for column in typed_columns(table)]
        # The same names in the same order: the update policy compares them.
        assert re.findall(r"^        (\w+) = ", expanded[table.name], re.MULTILINE) == [name for name, _ in columns]
        documented = [column.name for column in table.columns]
        assert [name for name, _ in columns][int(table.kind == "snapshot") :][: len(documented)] == documented


def test_the_types_are_the_documented_ones_but_where_those_cannot_be_right() -> None:
    differing = {
        (table.name, column.name): column.type
        for table in TABLES
        for column in typed_columns(table)
        if table.column_type(column.name) not in (None, column.type)
    }
    assert differing == OVERRIDES


def test_a_table_that_exists_keeps_its_order_and_gets_new_columns_at_its_end() -> None:
    table = CATALOGUE["AlertInfo"]
    existing = [Column("Own", "string"), *reversed(table.columns[1:])]
    columns = typed_columns(table, existing)
    assert columns == (*existing, table.columns[0])
    fields = re.findall(r"^        (\w+) = ", expand_function(table, existing), re.MULTILINE)
    assert fields == [column.name for column in columns]


def test_every_typed_table_is_filled_from_its_raw_table_in_one_transaction_with_its_tags() -> None:
    assert len(texts("54")) == len(TABLES)
    for table, text in zip(sorted(TABLES, key=lambda table: table.name), texts("54"), strict=True):
        assert text + "\n" == update_policy(table)
        assert f'"Source":"{table.raw_table}","Query":"Expand{table.name}()"' in text
        assert '"IsTransactional":true,"PropagateIngestionProperties":true' in text


def test_a_snapshot_table_has_two_functions_and_an_event_table_none() -> None:
    names = [text.splitlines()[1].partition("(")[0] for text in texts("53")]
    assert names == [name for table in CATALOGUE.snapshots() for name in (table.name, f"{table.name}History")]
    for table in CATALOGUE.snapshots():
        assert typed_columns(table)[0] == Column(SNAPSHOT_TIME, "datetime")


def test_rows_are_kept_as_long_as_the_setting_says_and_no_shorter_than_they_may_come_again() -> None:
    (retention,) = (text for text in texts("55") if "policy retention" in text)
    assert '"SoftDeletePeriod":"730.00:00:00"' in retention
    names = re.findall(r"^    (\w+)", retention, re.MULTILINE)
    assert sorted(names) == sorted(name for table in TABLES for name in (table.raw_table, typed_table_name(table)))
    unset = statements(Placeholders("defender"))
    assert ["RetentionDays"] in [list(item.placeholders) for item in unset if item.file.startswith("55_")]
    with pytest.raises(SchemaScriptError, match="retention of 45 days is shorter than 46"):
        Placeholders("defender", retention_days=SHORTEST_RETENTION_DAYS - 1)


def test_restricted_tables_are_so_in_both_forms_and_the_pipeline_may_read_them() -> None:
    grant, restrict = texts("56")
    assert "unrestrictedviewers ('aadapp=11111111-1111-1111-1111-111111111111;contoso.com')" in grant
    names = re.findall(r"^    (\w+)", restrict, re.MULTILINE)
    assert names == ["DataSecurityBehaviorsRaw", "DataSecurityBehaviors", "DataSecurityEventsRaw", "DataSecurityEvents"]


def test_docstrings_say_what_is_peculiar_of_a_column() -> None:
    kb, events = CATALOGUE["DeviceTvmSoftwareVulnerabilitiesKB"], CATALOGUE["EmailEvents"]
    assert 'CvssScore: "Documented as string."' in column_docstrings(kb)
    assert 'EpssScore: "Not on Microsoft\'s page of the table; seen in tenants."' in column_docstrings(kb)
    assert "LatestDeliveryAction" in events.mutable_columns
    assert 'LatestDeliveryAction: "Defender changes it after' in column_docstrings(events)
    assert (
        'AdditionalFields: "Further facts that have no column of their own. Text that holds JSON'
        in column_docstrings(events)
    )


def test_only_columns_that_a_value_may_not_fit_are_checked_and_counted_under_names_of_their_own() -> None:
    table = CATALOGUE["DeviceProcessEvents"]
    assert {column.type for column in checked_columns(table)} <= {"datetime", "long", "bool", "int", "real", "guid"}
    names = count_names(table)
    assert (names["LogonId"].name, names["LogonID_2"].name) == ("LogonId", "LogonID")
    assert len({name.casefold() for name in names}) == len(names)
    since = unfit_counts(table, datetime(2026, 8, 1, tzinfo=UTC))
    assert "| where ingestion_time() >= datetime(2026-08-01T00:00:00.000000Z)" in since
    with pytest.raises(UncheckedColumnError, match="DeviceName"):
        unfit_records(table, "DeviceName")


def test_a_value_that_fits_its_twin_has_its_place() -> None:
    table = CATALOGUE["EntraIdSignInEvents"]
    existing = typed_columns(table)
    assert "ErrorCode" in count_names(table, existing)
    as_text = (*existing, Column("ErrorCode_string", "string"))
    assert {"ErrorCode", "ErrorCode_string"}.isdisjoint(count_names(table, as_text))
    as_long = (*existing, Column("ErrorCode_long", "long"), Column("Added", "int"))
    assert {"ErrorCode", "Added"} <= set(count_names(table, as_long))
    field = 'Records["ErrorCode"]'
    both = f"isnull(toint(tostring({field}))) and isnull(tolong(tostring({field})))"
    assert both in unfit_counts(table, existing=as_long)
    assert both in unfit_records(table, "ErrorCode", existing=as_long)


def test_a_table_whose_name_is_none_never_reaches_a_statement() -> None:
    table = replace(CATALOGUE["AlertInfo"], name="__reserved")
    for write in (expand_function, update_policy, unfit_counts):
        with pytest.raises(InvalidNameError):
            write(table)
