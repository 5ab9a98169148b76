"""`.update table`: rows deleted and appended at once, as the page ".update table command" has it."""

import json
from collections.abc import Iterator

import pytest
from azure.kusto.data.exceptions import KustoApiError
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.catalogue import Catalogue
from defender_adx_pipeline.local import commands_update
from defender_adx_pipeline_tests.local.kusto import Kusto, kusto

COLUMNS = "Id: long, Colour: string, Later: datetime"


@pytest.fixture(scope="module")
def adx(open_tenant, statements) -> Iterator[Kusto]:
    columns = {"Id": "long", "Colour": "string", "Later": "datetime"}
    for name in ("People", "Watched", "Derived", "NotMade"):
        statements.add_table("adx", name, columns)
    # Known to the parser alone, so that the command fails in the database.
    statements.add_table("adx", "People", {**columns, "NotAdded": "long"})
    with open_tenant(scale=0, catalogue=Catalogue({})) as tenant, kusto(tenant) as clients:
        yield clients


@pytest.fixture
def people(adx) -> Kusto:
    """Five rows in two extents with tags of their own."""
    adx.command(f".create-merge table People ({COLUMNS})")
    adx.command(".clear table People data")
    for extent, ids in (("first", "1, 2, 3"), ("second", "4, 5")):
        adx.command(
            f""".append People with (tags='["drop-by:{extent}"]') <| print Id = dynamic([{ids}])"""
            " | mv-expand Id to typeof(long)"
            " | project Id, Colour = 'grey', Later = datetime(2026-01-01T00:00:00.123456Z)"
        )
    return adx


def colours(adx: Kusto) -> dict[int, str]:
    return {row[0]: row[1] for row in adx.rows("People | order by Id asc")}


def refused(adx: Kusto, command: str) -> str:
    before = adx.rows("People")
    with pytest.raises(KustoApiError) as caught:
        adx.command(command)
    assert sorted(adx.rows("People")) == sorted(before)
    return str(caught.value.get_api_error().description)


def test_the_rows_of_the_predicate_go_and_those_of_the_query_come_and_extents_tell(people):
    done = people.command(
        ".update table People delete D append A <|\n"
        "let D = People | where Id >= 3;\n"
        "let A = People | where Id >= 3 and Id < 6 | extend Colour = strcat(Colour, ';red');"
    )
    assert colours(people) == {1: "grey", 2: "grey", 3: "grey;red", 4: "grey;red", 5: "grey;red"}
    assert [(row["Action"], row["RowCount"], row["Table"]) for row in done if row["Action"] == "Create"] == [
        ("Create", 3, "People")
    ]
    assert sorted(row["RowCount"] for row in done if row["Action"] == "Delete") == [1, 2]
    extents = {row["Tags"]: row["RowCount"] for row in people.command(".show table People extents")}
    # The one that lost all its rows is gone; the new one has no tag.
    assert extents == {"drop-by:first": 2, "": 3}
    assert people.rows("People | distinct Text = tostring(Later)") == [["2026-01-01T00:00:00.1234560Z"]]


def test_twins_are_rows_of_their_own(people):
    people.command(".append People <| print Id = 1, Colour = 'grey', Later = datetime(2026-01-01T00:00:00.123456Z)")
    people.command(
        ".update table People delete Old append New <| let Wanted = 1; let New = People | where Id == Wanted;"
        " let Old = People | where Id == Wanted"
    )
    assert sorted(row[0] for row in people.rows("People")) == [1, 1, 2, 3, 4, 5]


def test_what_would_happen_is_told_and_does_not_happen(people):
    before = people.rows("People")
    told = people.command(
        ".update table People delete D append A with (whatif=true) <|"
        " let D = People | where Id < 3; let A = People | where Id == 5;"
    )
    assert sorted((row["Action"], row["RowCount"]) for row in told) == [("Create", 1), ("Delete", 2)]
    assert sorted(people.rows("People")) == sorted(before)


def test_what_is_appended_may_be_chosen_by_when_it_was_ingested(people):
    ((second,),) = people.rows("People | summarize At = max(ingestion_time()) | project tostring(At)")
    people.command(
        ".update table People delete D append A <| let D = People | where Id > 0;"
        f" let A = People | where ingestion_time() >= datetime({second}) | extend Colour = 'new';"
    )
    assert colours(people) == {4: "new", 5: "new"}


def test_nothing_to_delete_and_nothing_to_append_are_both_in_order(people):
    assert people.command(
        ".update table People delete D append A <| let D = People | where Id > 99; let A = People | where Id > 99;"
    ) == []  # fmt: skip
    people.command(
        ".update table People delete D append A <| let D = People | where Id > 0; let A = People | where Id > 99;"
    )
    assert people.count("People") == 0
    assert people.command(".show table People extents") == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("let D = People; let A = People | where Id == 1;", "at least one 'where'"),
        ("let D = Watched | where Id == 1; let A = People | where Id == 1;", "must read the table 'People'"),
        ("let D = People | where Id == 1 | take 1; let A = People | where Id == 1;", "'take'"),
        ("let D = People | where Id == 1; let A = People | where Id == 1 | project Id;", "does not match table schema"),
        ("let D = People | where Id == 1; let B = People | where Id == 1;", "the name 'A'"),
        ("let D = People | where NotAdded == 1; let A = People | where Id == 1;", "NotAdded"),
        ("let D = People | where Id == 1; let A = NotMade | where Id == 1;", "NotMade"),
    ],
)
def test_what_is_refused_changes_nothing(people, command, reason):
    people.command(f".create-merge table Watched ({COLUMNS})")
    assert reason in refused(people, f".update table People delete D append A <| {command}")


def test_a_property_that_the_command_has_not_is_refused(people):
    text = "let D = People | where Id == 1; let A = People | where Id == 1;"
    for unknown in ("creationTime='2026-01-01'", """tags='["drop-by:x"]'"""):
        command = f".update table People delete D append A with ({unknown}) <| {text}"
        assert "is not supported" in refused(people, command)


def test_more_records_than_one_command_may_delete_are_refused(people, monkeypatch):
    text = ".update table People delete D append A <| let D = People | where Id > 0; let A = People | where Id > 0;"
    monkeypatch.setattr(commands_update, "MOST_DELETES", 4)
    assert "5 records of People" in refused(people, text)
    monkeypatch.setattr(commands_update, "MOST_DELETES", 5)
    assert len(people.command(text)) == 3


def test_the_update_policies_of_the_table_run_and_their_failure_undoes_the_update(people):
    policy = [{"IsEnabled": True, "Source": "People", "Query": "People | where Id != 4", "IsTransactional": True}]
    people.command(f".create-merge table Derived ({COLUMNS})")
    people.command(f".alter table Derived policy update ```{json.dumps(policy)}```")
    update = ".update table People delete D append A <| let D = People | where Id > 2; let A = People | where Id > 2;"
    try:
        people.command(update)
        assert sorted(row[0] for row in people.rows("Derived")) == [3, 5]
        people.command(".create-merge table Derived (Further: string)")
        assert "The query of the update policy of 'Derived'" in refused(people, update)
        assert people.count("Derived") == 2
    finally:
        people.command(".drop table Derived")


@settings(max_examples=15)
@given(
    low=st.integers(0, 6), high=st.integers(0, 6), ids=st.lists(st.integers(1, 6), max_size=6)
)  # fmt: skip
def test_the_table_has_what_was_not_deleted_and_what_was_appended(adx, low, high, ids):
    adx.command(f".create-merge table People ({COLUMNS})")
    listed = ", ".join(map(str, ids))
    rows = (
        f"print Id = dynamic([{listed}]) | mv-expand Id to typeof(long) | where isnotnull(Id)"
        " | project Id, Colour = 'a', Later = datetime(null)"
    )
    adx.command(f".set-or-replace People <| {rows}")
    adx.command(
        f".update table People delete D append A <| let D = People | where Id >= {low} and Id < {high};"
        f" let A = People | where Id >= {low} | extend Colour = 'b';"
    )
    kept = [(number, "a") for number in ids if not low <= number < high]
    assert sorted((row[0], row[1]) for row in adx.rows("People")) == sorted(
        [*kept, *((number, "b") for number in ids if number >= low)]
    )
    assert sum(row["RowCount"] for row in adx.command(".show table People extents")) == adx.count("People")
