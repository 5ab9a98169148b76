import json
from collections.abc import Iterator

import pytest
from azure.kusto.data.exceptions import KustoApiError
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.local.commands import has_any_of_column, pipe, split_script
from defender_adx_pipeline.local.commands_text import Reader, outside_literals, split_pipe
from defender_adx_pipeline.local.frames import KustoFault, Table
from defender_adx_pipeline.local.tenant import DATABASE
from defender_adx_pipeline_tests.local.kusto import MAPPING, Kusto, kusto

NOTHING = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def adx(open_tenant) -> Iterator[Kusto]:
    with open_tenant(scale=0) as tenant, kusto(tenant) as clients:
        yield clients


def refused(adx: Kusto, command: str) -> str:
    """The error code of a command that the service refuses."""
    with pytest.raises(KustoApiError) as caught:
        adx.command(command)
    return str(caught.value.get_api_error().code)


def test_create_merge_adds_columns_at_the_end_and_never_takes_any_away(adx):
    adx.command(".create-merge tables Merged (A: string, B: long), Other (C: bool)")
    adx.command(".append Merged <| print 'x', 1")
    adx.command(".create-merge table Merged (Z: datetime, A: string)")
    schema = adx.command(".show table ['Merged'] cslschema")
    assert schema[0]["Schema"] == "A:string,B:long,Z:datetime"
    assert adx.rows("Merged") == [["x", 1, None]]


def test_a_type_clash_fails_and_creates_nothing(adx):
    adx.command(".create-merge table Clash (A: string)")
    assert refused(adx, ".create-merge tables Fresh (B: long), Clash (A: long)") == "BadRequest_ColumnTypeMismatch"
    assert refused(adx, ".show table Fresh cslschema") == "BadRequest_EntityNotFound"


def test_append_goes_by_position_and_needs_the_same_types(adx):
    adx.command(".create table Placed (A: string, B: long, C: int)")
    adx.command(".append Placed <| datatable(X: string, Y: long, Z: int)['x', 1, 2]")
    assert adx.rows("Placed") == [["x", 1, 2]]
    wrong = "BadRequest_QuerySchemaDoesNotMatchTableSchema"
    assert refused(adx, ".append Placed <| print A = 'x', B = 1") == wrong
    assert refused(adx, ".append Placed <| print 1, 'x', int(2)") == wrong
    assert refused(adx, ".append Absent <| print 1") == "BadRequest_EntityNotFound"
    assert adx.count("Placed") == 1


def test_a_tag_that_is_there_keeps_an_append_out(adx):
    adx.command(".create table Once (A: string)")
    command = """.append Once with (tags='["ingest-by:s1"]', ingestIfNotExists='["s1"]') <| print 'x'"""
    assert adx.command(command)[0]["RowCount"] == 1
    again = adx.command(command)[0]
    assert (again["ExtentId"], again["RowCount"]) == (NOTHING, 0)
    assert adx.count("Once") == 1


def test_set_or_replace_may_read_what_it_replaces(adx):
    adx.command(".set-or-append Swapped <| print A = 'x'")
    adx.command(".set-or-replace Swapped <| Swapped | union Swapped")
    assert adx.count("Swapped") == 2
    assert len(adx.command(".show table Swapped extents")) == 1
    assert refused(adx, ".set Swapped <| print A = 'y'") == "BadRequest_EntityAlreadyExists"


def test_extents_are_found_by_their_tags_in_both_spellings(adx):
    adx.command(".create table Shards (A: string)")
    for slice_id in ("aa", "bb"):
        adx.command(f""".append Shards with (tags='["ingest-by:{slice_id}"]') <| print 'x'""")
    piped = '.show table [\'Shards\'] extents | where Tags has_any (dynamic(["aa", "zz"])) | project Tags'
    assert [row["Tags"] for row in adx.command(piped)] == ["ingest-by:aa"]
    assert len(adx.command(".show table Shards extents where tags has 'ingest-by:bb'")) == 1
    assert adx.command(".show table Shards extents | summarize sum(RowCount)")[0]["sum_RowCount"] == 2
    adx.command(".drop extents <| .show table Shards extents where tags has 'ingest-by:aa'")
    assert [row["Tags"] for row in adx.command(".show table Shards extents")] == ["ingest-by:bb"]
    assert adx.count("Shards") == 1


@given(
    st.lists(st.text("abAB01-: _\r\n", max_size=12), max_size=8),
    st.lists(st.text("abAB01", min_size=1, max_size=3), min_size=1, max_size=4),
    st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_the_quick_way_through_has_any_finds_what_kql_finds(tags, terms, project):
    table = Table([("Tags", "string"), ("N", "long")], [(tag, number) for number, tag in enumerate(tags)])
    query = f"where Tags has_any (dynamic({json.dumps(terms)})) {'| project N' if project else ''}"
    quick = has_any_of_column(table, query)
    assert quick is not None
    slow = pipe(table, query)
    assert list(quick.columns) == list(slow.columns)
    assert sorted(quick.rows) == sorted(slow.rows)


@pytest.mark.parametrize(
    "query",
    [
        "where Tags has_any (dynamic(['a b']))",
        "where Tags has 'a'",
        "where Other has_any (dynamic(['a']))",
        "where Tags has_any (dynamic(['a'])) | project Other",
        "where Tags has_any (dynamic(['a'])) | count",
    ],
)
def test_any_other_query_takes_the_ordinary_way(query):
    assert has_any_of_column(Table([("Tags", "string")], []), query) is None


def test_a_mapping_is_stored_and_shown(adx):
    adx.raw_table("Mapped")
    shown = adx.command(".show table ['Mapped'] ingestion json mappings")
    assert [(row["Name"], row["Kind"], json.loads(row["Mapping"])) for row in shown] == [
        ("DynamicJsonMap", "Json", json.loads(MAPPING))
    ]
    assert adx.command(".show ingestion mappings | where Table == 'Mapped' | count")[0]["Count"] == 1
    assert refused(adx, """.create-or-alter table Mapped ingestion json mapping "M" 'no json'""") == (
        "BadRequest_InvalidMapping"
    )


def test_policies_are_kept_merged_and_shown(adx):
    adx.command(".create tables P1 (A: string), P2 (A: string)")
    adx.command(""".alter tables (P1, P2) policy ingestionbatching ```{"MaximumBatchingTimeSpan": "00:00:30"}```""")
    adx.command(""".alter-merge table P1 policy ingestionbatching @'{"MaximumNumberOfItems": 5}'""")
    adx.command(""".alter table P1 policy extent_tags_retention '[{"TagPrefix": "ingest-by:"}]'""")
    shown = json.loads(adx.command(".show table P1 policy ingestionbatching")[0]["Policy"])
    assert shown == {"MaximumBatchingTimeSpan": "00:00:30", "MaximumNumberOfItems": 5}
    adx.command(".delete table P2 policy ingestionbatching")
    assert adx.command(".show table P2 policy ingestionbatching")[0]["Policy"] == "null"
    assert refused(adx, ".alter table P1 policy nonsense '{}'") == "General_BadRequest"


def test_roles_are_granted_once_and_only_to_well_formed_principals(adx):
    for _ in range(2):
        adx.command(f".add database ['{DATABASE}'] ingestors ('aadapp=1234;5678') 'the pipeline'")
    roles = adx.command(f".show database ['{DATABASE}'] principals | where PrincipalFQN == 'aadapp=1234;5678'")
    assert [(row["Role"], row["Notes"]) for row in roles] == [(f"Database {DATABASE} Ingestor", "the pipeline")]
    assert refused(adx, f".add database {DATABASE} viewers ('1234')") == "BadRequest_InvalidPrincipal"
    assert refused(adx, ".add database other viewers ('aadapp=1;2')") == "BadRequest_EntityNotFound"
    adx.command(f".drop database {DATABASE} ingestors ('aadapp=1234;5678')")
    assert len(adx.command(f".show database {DATABASE} principals")) == 1


def test_a_function_that_does_not_bind_is_refused_and_the_old_one_stays(adx):
    adx.command(".create table Bound (A: string)")
    adx.command(".create-or-alter function Good() { Bound | count }")
    with pytest.raises(KustoApiError, match="Failed to resolve"):
        adx.command(".create-or-alter function Good() { Bound | where Missing == 1 }")
    assert adx.rows("Good") == [[0]]
    adx.command(".create-or-alter function with (skipvalidation='true') Later() { NotYet | count }")
    assert "Later" in [row["Name"] for row in adx.command(".show functions")]
    assert refused(adx, ".create function Good() { print 1 }") == "BadRequest_EntityAlreadyExists"
    adx.command(".drop function Later")
    assert refused(adx, ".drop function Later") == "BadRequest_EntityNotFound"


def test_a_view_keeps_its_name_to_itself(adx):
    adx.command(".create table Source (K: string, V: long)")
    adx.command(".create materialized-view Newest on table Source { Source | summarize arg_max(V, *) by K }")
    assert refused(adx, ".create-or-alter function Newest() { print 1 }") == "BadRequest_EntityAlreadyExists"
    assert refused(adx, ".create-merge table Newest (A: string)") == "BadRequest_EntityAlreadyExists"
    adx.command(".drop materialized-view Newest")
    adx.command(".create-or-alter function Newest() { print 1 }")


def test_a_script_reports_each_command_and_stops_at_the_first_that_fails(adx):
    script = ".create-merge table S1 (A: string)\n\n// a comment\n.nonsense\n\n.create-merge table S2 (A: string)"
    results = adx.command(f".execute database script <|\n{script}")
    assert [row["Result"] for row in results] == ["Completed", "Failed"]
    results = adx.command(f".execute database script with (ContinueOnErrors=true) <|\n{script}")
    assert [row["Result"] for row in results] == ["Completed", "Failed", "Completed"]


def test_data_in_the_command_is_ingested_by_its_format(adx):
    adx.raw_table("Inline")
    adx.command(
        ".ingest inline into table Inline with (format='multijson', ingestionMappingReference='DynamicJsonMap') <|\n"
        '{"a": 1.10}\n{"a": 2}'
    )
    assert adx.rows("Inline | project A = toreal(Records.a) | order by A asc") == [[1.1], [2.0]]
    adx.command(".create table Rows (A: string, B: long)")
    adx.command('.ingest inline into table Rows <|\n"x, y",1\nz,2')
    assert adx.rows("Rows | order by B asc") == [["x, y", 1], ["z", 2]]


def test_what_is_shown_of_the_database(adx):
    adx.command(".create-merge table Shown (A: string, B: datetime)")
    assert "Shown" in [row["TableName"] for row in adx.command(".show tables")]
    schema = json.loads(adx.command(".show table Shown schema as json")[0]["Schema"])
    assert [(column["Name"], column["CslType"]) for column in schema["OrderedColumns"]] == [
        ("A", "string"),
        ("B", "datetime"),
    ]
    assert (
        "Shown"
        in json.loads(adx.command(".show database schema as json")[0]["DatabaseSchema"])["Databases"][DATABASE][
            "Tables"
        ]
    )
    adx.command(".append Shown <| print 'x', datetime(2026-01-01)")
    assert adx.command(".show table Shown details")[0]["TotalRowCount"] == 1
    assert adx.command(".show version")[0]["ServiceType"] == "Engine"
    adx.command(".clear table Shown data")
    assert adx.count("Shown") == 0
    adx.command(".drop table Shown")
    assert adx.command(".drop table Shown ifexists") is not None
    assert refused(adx, ".drop table Shown") == "BadRequest_EntityNotFound"


@pytest.mark.parametrize(
    "command",
    [
        ".create table ['x'] | .drop table ['Kept'] //'] (A: string)",
        '.create table ["x\\"; DROP TABLE Kept"] (A: string)',
        ".create table Kept2 (['a\"b']: string)",
        ".show table ['Kept'; drop] cslschema",
        ".show table ['Kept\"'] cslschema",
    ],
)
def test_a_name_cannot_break_out_of_its_quotes(adx, command):
    adx.command(".create-merge table Kept (A: string)")
    refused(adx, command)
    assert adx.command(".show table Kept cslschema")[0]["Schema"] == "A:string"


def test_a_value_with_quotes_stays_a_value(adx):
    adx.command(".create-merge table Quoted (A: string)")
    value = "x'); DROP TABLE adx.data.Quoted; --\"'"
    adx.command(f".append Quoted <| print {json.dumps(value)}")
    assert adx.rows("Quoted") == [[value]]


@pytest.mark.parametrize("command", [".frobnicate", ".show", ".show nonsense", ".create table", ".append T", "print 1"])
def test_what_is_no_command_is_a_syntax_error(adx, command):
    with pytest.raises(KustoApiError, match="Syntax error"):
        adx.command(command)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        (r'"a\"b\\\u00e9\n"', 'a"b\\é\n'),
        (r"'a\'b'", "a'b"),
        ("""@'a''b\\'""", "a'b\\"),
        ('h@"a""b"', 'a"b'),
        ("```\n{ \"a\": 'b' }```", "{ \"a\": 'b' }"),
    ],
)
def test_string_literals_of_every_form_are_read(literal, value):
    reader = Reader(literal)
    assert reader.string() == value
    reader.end()


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_as_an_escaped_literal(text):
    assert Reader(json.dumps(text)).string() == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_a_pipe_inside_a_literal_is_no_pipe(text):
    command = f".show x {json.dumps(text)} "
    assert split_pipe(command + "| count") == (command, "count")
    assert "|" not in outside_literals(command)


def test_a_literal_that_does_not_end_is_refused():
    with pytest.raises(KustoFault, match="string literal"):
        Reader('"abc').string()


def test_a_script_is_cut_at_dots_that_begin_a_line_outside_literals():
    script = ".create table A (B: string)\n.alter table A policy update ```\n.not a command\n```\n\n.show tables\n"
    assert [command.split()[0] for command in split_script(script)] == [".create", ".alter", ".show"]
    assert split_script("// nothing") == []
