"""Which tables are due: the configuration's rows, validated one by one, and the days that each still has to cover.

Here: what schedule, sensor and `status` need to know before any table is read. Not here: reading one (`attempt`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from defender_adx_pipeline.catalogue import Catalogue, TableKind, UnknownTableError
from defender_adx_pipeline.migration import watermark
from defender_adx_pipeline.migration.configuration import (
    TableConfiguration,
    check_own_destination,
    check_watermark_column,
    configuration_from_row,
)
from defender_adx_pipeline.migration.errors import ConfigurationError
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.state import StateStore


@dataclass(frozen=True, slots=True)
class Agenda:
    """The tables of one kind in the configuration, and what is wrong with its other rows."""

    tables: tuple[TableConfiguration, ...]
    problems: Mapping[str, str]
    """Reason by source table: rows that cannot be followed. The other tables move all the same."""

    def active(self) -> tuple[TableConfiguration, ...]:
        """The tables that scheduled runs take."""
        return tuple(item for item in self.tables if item.is_active)


def read_agenda(state: StateStore, catalogue: Catalogue, kind: TableKind = "event") -> Agenda:
    """The configuration as it is now, of one kind of tables; one bad row does not hide the others."""
    tables: list[TableConfiguration] = []
    problems: dict[str, str] = {}
    rows = state.configuration_rows()
    for row in rows:
        try:
            item = _table(row, rows, catalogue, kind)
        except (ConfigurationError, UnknownTableError) as error:
            problems[str(row.get("SourceTable"))] = str(error)
            continue
        if item is not None:
            tables.append(item)
    return Agenda(tuple(sorted(tables, key=lambda item: item.table.name)), problems)


def due_snapshots(state: StateStore, agenda: Agenda, now: datetime) -> tuple[TableConfiguration, ...]:
    """The active snapshot tables whose snapshot of today is not published yet."""
    published = state.published_days()
    today = now.date().isoformat()
    return tuple(item for item in agenda.active() if published.get(item.table.name, "") < today)


def due_since(
    state: StateStore, items: Sequence[TableConfiguration], *, now: datetime, overlap: timedelta
) -> dict[TableConfiguration, datetime]:
    """From when on a tick of each table reads; not before what Defender keeps. One question to ADX for all of them."""
    earliest = readable_since(now)
    complete = complete_until(state, items, now=now)
    return {item: earliest if moment is None else max(moment - overlap, earliest) for item, moment in complete.items()}


def complete_until(
    state: StateStore, items: Sequence[TableConfiguration], *, now: datetime
) -> dict[TableConfiguration, datetime | None]:
    """Up to where each event table is complete, as `watermark.complete_until` has it. One question to ADX for all."""
    coverage = state.coverage_of(items, readable_since(now))
    return {item: watermark.complete_until(item, coverage[item], now=now) for item in items}


def _table(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], catalogue: Catalogue, kind: TableKind
) -> TableConfiguration | None:
    item = configuration_from_row(row, catalogue)
    if item.table.kind != kind:
        return None
    check_watermark_column(row, item.table)
    check_own_destination(row, rows, catalogue)
    return item
