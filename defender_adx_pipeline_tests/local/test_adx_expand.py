"""Functions that only take fields out of records: which ones are recognised, and what the service gives for each."""

from collections.abc import Iterator

import pytest

from defender_adx_pipeline.local.adx_expand import expansion
from defender_adx_pipeline_tests.local.kusto import Kusto, eventually, json_lines, kusto

BODY = 'ARaw | project Text = tostring(R["Text"]), N = tolong(tostring(R["n"])), B = R["b"]'


@pytest.fixture(scope="module")
def adx(open_tenant) -> Iterator[Kusto]:
    with open_tenant(scale=0, batching_delay=0.0) as tenant, kusto(tenant) as clients:
        yield clients


@pytest.mark.parametrize(
    "body",
    [
        "ARaw",
        "ARaw | where A == 1",
        'ARaw | project A = tostring(R["A"]) | take 1',
        'ARaw | project A = tostring(R["A"]), B',
        'ARaw | project A = tostring(R["A"]),',
        'ARaw | project A = tolong(R["A"])',
        'ARaw | project A = tostring(tostring(R["A"]))',
        'ARaw | project A = toupper(R["A"])',
        'ARaw | project A = tostring(R["A"]["B"])',
        'ARaw | project A = tostring(R["A\\""])',
        'ARaw | project A = tostring(R["A"]) extend',
        "ARaw | project A = tostring(R.A)",
        "ARaw | project N = 1",
        'ARaw | project A = R["A"], B = Q["B"]',
    ],
)
def test_what_is_more_than_a_projection_of_fields_is_left_to_the_translator(body):
    assert expansion(body) is None


def test_a_projection_of_fields_is_taken_apart():
    found = expansion(BODY)
    assert (found.source, found.bag) == ("ARaw", "R")
    assert found.fields == (("Text", "Text", "string"), ("N", "n", "long"), ("B", "b", "dynamic"))
    assert expansion("['A Raw']\n    | project\n        ['My col'] = todatetime(R[\"It's\"])\n").source == "A Raw"


def test_it_gives_what_the_translator_gives_and_the_seventh_digit(adx):
    adx.raw_table("FieldsRaw")
    rows = [
        {"t": "2026-08-01T01:02:03.1234567Z", "n": 9007199254740993, "i": 7, "r": 0.5, "b": True, "s": 'é"\\'},
        {"t": "2026-08-01T01:02:03.5+02:00", "n": "12", "i": 5_000_000_000, "r": "x", "b": "false", "s": {"a": 1}},
        {"t": "never", "n": 1.5, "i": "1.5", "r": 3, "b": "perhaps", "s": True, "g": "no guid"},
        {"g": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "s": None},
    ]
    adx.queue("FieldsRaw", json_lines([{**row, "at": at} for at, row in enumerate(rows)]))
    eventually(lambda: adx.count("FieldsRaw") == len(rows))
    fields = {
        "At": 'tolong(tostring(Records["at"]))',
        "N": 'tolong(tostring(Records["n"]))',
        "I": 'toint(tostring(Records["i"]))',
        "R": 'toreal(Records["r"])',
        "B": 'tobool(Records["b"])',
        "S": 'tostring(Records["s"])',
        "G": 'toguid(Records["g"])',
        "D": 'Records["s"]',
    }
    project = ", ".join(f"{name} = {field}" for name, field in fields.items())
    adx.command(f'.create-or-alter function Taken() {{ FieldsRaw | project {project}, T = todatetime(Records["t"]) }}')
    # `extend` makes it a query that is translated.
    translated = adx.rows(f"FieldsRaw | extend X = 1 | project {project} | order by At asc")
    assert adx.rows("Taken | order by At asc | project-away T") == translated
    assert [row[1] for row in translated] == [9007199254740993, 12, None, None]
    assert [row[0] for row in adx.rows("Taken | order by At asc | project tostring(T)")] == [
        "2026-08-01T01:02:03.1234567Z",
        "2026-07-31T23:02:03.5000000Z",
        "",
        "",
    ]


def test_its_rows_keep_the_ingestion_time_and_extent_that_they_have_in_the_table(adx):
    adx.raw_table("TimedRaw")
    adx.command('.create-or-alter function Timed() { TimedRaw | project A = tostring(Records["A"]) }')
    for name in ("a", "b"):
        adx.command(f""".append TimedRaw with (tags='["drop-by:{name}"]') <| print parse_json('{{"A": "{name}"}}')""")
    asked = (
        "project A = tostring({}), At = tostring(ingestion_time()), Id = extent_id(), Tags = tostring(extent_tags())"
    )
    order = " | order by A asc"
    of_table = adx.rows(f"TimedRaw | {asked.format('Records.A')}{order}")
    assert adx.rows(f"Timed() | {asked.format('A')}{order}") == of_table
    (_, first, *_), (_, second, *_) = of_table
    assert first < second
    later = f"Timed() | where ingestion_time() >= datetime({second})"
    assert adx.rows(later) == [["b"]]
    assert adx.rows(f"{later} | union (Timed() | where isnull(ingestion_time())) | count") == [[1]]
    assert adx.rows(f"{later} | extend B = 1") == [["b", 1]]


def test_names_that_differ_in_case_alone_are_taken_and_the_first_is_held(adx):
    adx.raw_table("TwinsRaw")
    adx.command(".create-merge table Twins (LogonId: long, LogonID: long)")
    fields = 'LogonId = tolong(tostring(Records["LogonId"])), LogonID = tolong(tostring(Records["LogonID"]))'
    adx.command(f".create-or-alter function ExpandTwins() {{ TwinsRaw | project {fields} }}")
    policy = '[{"IsEnabled":true,"Source":"TwinsRaw","Query":"ExpandTwins()","IsTransactional":true}]'
    adx.command(f".alter table Twins policy update ```{policy}```")
    adx.queue("TwinsRaw", json_lines([{"LogonId": 1}]))
    eventually(lambda: adx.count("TwinsRaw") == 1)
    assert adx.rows("Twins") == [[1]]
    (row,) = adx.command(".show table Twins cslschema")
    assert row["Schema"] == "LogonId:long,LogonID:long"


def test_a_function_that_is_made_anew_gives_its_new_columns(adx):
    adx.raw_table("AnewRaw")
    adx.queue("AnewRaw", json_lines([{"A": "a", "B": "b"}]))
    eventually(lambda: adx.count("AnewRaw") == 1)
    for name in ("A", "B"):
        adx.command(f'.create-or-alter function Anew() {{ AnewRaw | project {name} = tostring(Records["{name}"]) }}')
        assert adx.rows("Anew") == [[name.lower()]]


def test_many_records_of_many_fields_are_expanded_in_the_memory_there_is(adx):
    names = [f"F{number}" for number in range(80)]
    adx.raw_table("WideRaw")
    adx.command(f".create-merge table Wide ({', '.join(f'{name}: string' for name in names)})")
    fields = ", ".join(f'{name} = tostring(Records["{name}"])' for name in names)
    adx.command(f".create-or-alter function ExpandWide() {{ WideRaw | project {fields} }}")
    policy = '[{"IsEnabled":true,"Source":"WideRaw","Query":"ExpandWide()","IsTransactional":true}]'
    adx.command(f".alter table Wide policy update ```{policy}```")
    adx.queue("WideRaw", json_lines([dict.fromkeys(names, "x" * 60)] * 5000))
    eventually(lambda: adx.count("WideRaw") == 5000)
    assert adx.rows(f'Wide | where F79 == "{"x" * 60}" | count') == [[5000]]
