"""Queries for rows that ADX has more than once: on which days rows came, how many are doubled there, and which.

Here: the statements, over a typed table where there is one, since its columns are read without the rest of the record,
else over the raw one. Not here: the same question to Defender (`defender.hunting`), and what is made of the two
(`migration.duplicates`).

Rows are the same that have the same `RowKey`, the hash of their identity: of the whole row where none is documented,
without the columns that Defender changes later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from defender_adx_pipeline.adx.kql import RECORDS
from defender_adx_pipeline.adx.snapshot_kql import CLOCKS_APART
from defender_adx_pipeline.adx.typed_tables import plain, typed_columns, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable
from defender_adx_pipeline.quoting import kql_datetime, kql_joined, kql_string

_SHOWN_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of a table are looked at.

    Args:
        table: the Defender table.
        existing: the columns of its typed table in ADX; none where there is no such table.
    """

    table: DefenderTable
    existing: tuple[Column, ...] = ()

    @property
    def name(self) -> str:
        """The table that is read."""
        return typed_table_name(self.table) if self.existing else self.table.raw_table

    @property
    def time(self) -> str:
        """An expression for the time that places a row: of a snapshot table its SnapshotTime."""
        column = SNAPSHOT_TIME if self.table.kind == "snapshot" else self.table.time_column or ""
        return plain(column) if self.existing else f"todatetime({RECORDS}[{kql_string(column)}])"

    @property
    def key(self) -> str:
        """An expression for the `RowKey`."""
        if self.existing:
            names = self.table.identity or self._whole()
            return f"hash_xxhash64({kql_joined([f'tostring({plain(name)})' for name in names])})"
        if not self.table.identity:
            mutable = ", ".join(map(kql_string, self.table.mutable_columns))
            whole = f"bag_remove_keys({RECORDS}, dynamic([{mutable}]))" if mutable else RECORDS
            return f"hash_xxhash64(tostring({whole}))"
        return (
            f"hash_xxhash64({kql_joined([f'tostring({RECORDS}[{kql_string(name)}])' for name in self.table.identity])})"
        )

    @property
    def shown(self) -> str:
        """What is shown of a row."""
        if not self.existing:
            return RECORDS
        return ", ".join(map(plain, (self.table.identity or self._whole())[:_SHOWN_COLUMNS]))

    def _whole(self) -> tuple[str, ...]:
        left_out = {*self.table.mutable_columns, SNAPSHOT_TIME}
        columns = self.existing or typed_columns(self.table)
        return tuple(column.name for column in columns if column.name not in left_out)


def days_with_new_rows(asked: Sequence[Rows], ingested_since: datetime) -> str:
    """The days of which event tables got rows since an instant: `SourceTable`, `Day`, `Rows`.

    Raises:
        ValueError: no table.
    """
    if not asked:
        raise ValueError("no table is asked about")
    parts = (
        f"({plain(one.name)} | where ingestion_time() >= {kql_datetime(ingested_since)}"
        f" | summarize Rows = count() by Day = bin({one.time}, 1d) | extend SourceTable = {kql_string(one.table.name)})"
        for one in asked
    )
    return f"union isfuzzy=true {', '.join(parts)}"


def doubled_rows(rows: Rows, start: datetime, end: datetime) -> str:
    """Rows of a time that are there more than once: one row, `Keys`, `Extra`, `First` and `Last`.

    `Extra` is how many rows there are beyond one of each key; `First` and `Last` are the times of doubled rows, null
    where there are none.
    """
    return (
        f"{_doubled(rows, start, end)}"
        "\n| summarize Keys = count(), Extra = sum(Copies) - count(), First = min(First), Last = max(Last)"
    )


def some_doubled_rows(rows: Rows, start: datetime, end: datetime) -> str:
    """Some of the rows that are there more than once, with `Copies`: what a person looks at."""
    return f"{_doubled(rows, start, end, rows.shown)}\n| top 20 by Copies"


def _doubled(rows: Rows, start: datetime, end: datetime, shown: str = "") -> str:
    one = f", arg_max(RowTime, {shown})" if shown else ""
    # No row of the time can have been ingested before it, so that older extents are not read.
    earliest = kql_datetime(start - CLOCKS_APART)
    return (
        f"{plain(rows.name)}\n| where isnull(ingestion_time()) or ingestion_time() >= {earliest}"
        f"\n| extend RowTime = {rows.time}\n| where RowTime >= {kql_datetime(start)} and RowTime < {kql_datetime(end)}"
        f"\n| extend RowKey = {rows.key}"
        f"\n| summarize Copies = count(), First = min(RowTime), Last = max(RowTime){one} by RowKey\n| where Copies > 1"
    )
