"""The functions of one snapshot table: its latest state, that of a day, what changed, and since when a key is there.

Here: their names and their text. Not here: the file that they stand in (`generated`), the snapshots that they serve
(VwPublishedSnapshots in `13_migration_ledger.kql`), and what the pipeline itself asks about snapshots (`snapshot_kql`).

Which snapshot is read is settled in a `toscalar`, which Kusto evaluates once and before the rest of the query: one that
runs while another snapshot is published reads either of the two, whole.
"""

import re
from collections.abc import Mapping

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.adx.state_kql import SNAPSHOTS_VIEW
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, DefenderTable
from defender_adx_pipeline.quoting import kql_name, kql_string

# Every KQL keyword begins with a lower-case letter and KQL is case-sensitive, so these names need no quotes.
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9_]*")


def snapshot_functions(table: DefenderTable) -> Mapping[str, str]:
    """The commands that make the functions of a snapshot table, by the functions' names, in the order of their use.

    `Vw<Table>At(Day)`, `Vw<Table>Latest()`: SnapshotTime, the key columns as text, Records.
    `Vw<Table>Changes(FromDay, ToDay)`: the key columns, Change (New, Fixed or Changed), RowsBefore, RowsAfter, and
    Records: one record of the key, from the second day where it has one.
    `Vw<Table>History()`: the key columns, FirstSeen, LastSeen (times of snapshots), Snapshots (in how many days' ones).

    Raises:
        InvalidNameError: the name of the table or of a column may not stand in a statement.
    """
    made = (_at(table), _latest(table), _changes(table), _history(table))
    return {f"Vw{table.name}{suffix}": text for suffix, text in zip(_SUFFIXES, made, strict=True)}


_SUFFIXES = ("At", "Latest", "Changes", "History")


def _at(table: DefenderTable) -> str:
    return _function(
        table,
        "At(Day: datetime)",
        f"The latest snapshot of {table.name} that was published of a UTC day.",
        f"""\
    let Taken = toscalar({_published(table)}
        | where SnapshotDay == startofday(Day)
        | summarize max(SnapshotTime));
    {_name(table.raw_table)}
    | where isnull(ingestion_time()) or ingestion_time() >= Taken - 1h
    | where todatetime({_field(SNAPSHOT_TIME)}) == Taken
    | project SnapshotTime = Taken, {_keys_as_text(table)}, {RECORDS}""",
    )


def _latest(table: DefenderTable) -> str:
    return _function(
        table,
        "Latest()",
        f"The latest published snapshot of {table.name}.",
        f"""\
    let Day = toscalar({_published(table)}
        | summarize max(SnapshotDay));
    Vw{table.name}At(Day)""",
    )


def _changes(table: DefenderTable) -> str:
    # The record's own time says when it was assessed, not what was found: with it, every key would be Changed each day.
    apart = ", ".join(kql_string(name) for name in (SNAPSHOT_TIME, table.time_column) if name)
    keys = _key_names(table)
    return _function(
        table,
        "Changes(FromDay: datetime, ToDay: datetime)",
        f"Keys of {table.name} that are New, Fixed (gone) or Changed between the snapshots of two UTC days;"
        " no rows where a day has none.",
        f"""\
    let Days = toscalar({_published(table)}
        | where SnapshotDay in (startofday(FromDay), startofday(ToDay))
        | count);
    union (Vw{table.name}At(FromDay) | extend Later = 0), (Vw{table.name}At(ToDay) | extend Later = 1)
    | where Days == 2
    | summarize Before = countif(Later == 0), After = countif(Later == 1), arg_max(Later, {RECORDS})
        by {keys},
        Content = hash(tostring(bag_remove_keys({RECORDS}, dynamic([{apart}]))))
    | summarize RowsBefore = sum(Before), RowsAfter = sum(After), Differing = countif(Before != After),
        arg_max(Later, {RECORDS})
        by {keys}
    | where Differing > 0
    | project {keys}, Change = case(RowsBefore == 0, "New", RowsAfter == 0, "Fixed", "Changed"),
        RowsBefore, RowsAfter, {RECORDS}""",
    )


def _history(table: DefenderTable) -> str:
    keys = _key_names(table)
    return _function(
        table,
        "History()",
        f"Each key of {table.name}: the first and the last published snapshot that has it, and how many have it.",
        f"""\
    let Published = {_published(table)}
        | project SnapshotTime;
    {_name(table.raw_table)}
    | extend SnapshotTime = todatetime({_field(SNAPSHOT_TIME)})
    | where SnapshotTime in (Published)
    | summarize by SnapshotTime, {_keys_as_text(table)}
    | summarize FirstSeen = min(SnapshotTime), LastSeen = max(SnapshotTime), Snapshots = count()
        by {keys}""",
    )


def _function(table: DefenderTable, signature: str, docstring: str, body: str) -> str:
    properties = f"folder = {kql_string('Snapshots')}, docstring = {kql_string(docstring)}"
    return f".create-or-alter function with ({properties})\nVw{table.name}{signature} {{\n{body}\n}}\n"


def _published(table: DefenderTable) -> str:
    """The published snapshots of a table that are in its raw table, and not in another that it once had."""
    source, destination = kql_string(table.name), kql_string(table.raw_table)
    return f"{SNAPSHOTS_VIEW}\n        | where SourceTable == {source} and DestinationTable == {destination}"


def _keys_as_text(table: DefenderTable) -> str:
    return ", ".join(f"{_name(name)} = tostring({_field(name)})" for name in table.identity_columns)


def _key_names(table: DefenderTable) -> str:
    return ", ".join(_name(name) for name in table.identity_columns)


def _field(name: str) -> str:
    return f"{RECORDS}[{kql_string(name)}]"


def _name(name: str) -> str:
    """A name, quoted where KQL could take it for something else."""
    quoted = kql_name(name)
    return name if _PLAIN.fullmatch(name) else quoted
