"""The rows of some days of a table in ADX, before anybody fetches them: a query that a downstream asset goes on with.

Here: the handle, and how it is made from an asset's name. Not here: the text of the query (`adx.partition_kql`), and
rows as frames (`frames`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from defender_adx_pipeline.adx import partition_kql
from defender_adx_pipeline.adx.client import Parameter
from defender_adx_pipeline.adx.snapshot_kql import CLOCKS_APART
from defender_adx_pipeline.adx.typed_tables import typed_columns, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable
from defender_adx_pipeline.defs.frames import arrow_table, pandas_frame
from defender_adx_pipeline.defs.partitions import window_of
from defender_adx_pipeline.defs.reporting import web_ui_link
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.migration.readback import records, typed_rows
from defender_adx_pipeline.migration.windows import Window, merge

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_Frame = TypeVar("_Frame")
_DAY = timedelta(days=1)
_SHOWN = 1000
"""Rows that the link to the web UI asks for."""


@dataclass(frozen=True, slots=True)
class KqlHandle:
    """The rows of some partitions of `adx/<Table>` or `adx/<Table>Raw`, as a query. Made by `kql_handle`.

    Nothing is read until a method is called, and `run` reads only what its operators leave:

        rows.run("| where ActionType == 'LogonFailed' | summarize Failed = count() by DeviceName | top 10 by Failed")

    A typed table has Defender's columns; a raw one the dynamic column `Records`, one record each. Of a snapshot table
    the rows are those of the published snapshot of each day.
    """

    database: str
    """The database in ADX."""
    table: str
    """The table in it that has the rows."""
    windows: tuple[Window, ...]
    """Half-open windows of the table's time column, UTC; of a snapshot table, one microsecond for each day."""
    query: str
    """The rows of the windows: all columns, in no order. It can be pasted into ADX."""
    _adx: AdxResource = field(repr=False, compare=False)
    _source: DefenderTable = field(repr=False, compare=False)
    _is_typed: bool = field(repr=False, compare=False)

    def run(self, continuation: str = "", parameters: Mapping[str, Parameter] | None = None) -> list[dict[str, Any]]:
        """What ADX answers to the query with KQL operators appended to it.

        Args:
            continuation: KQL that begins with `|`. A value that comes from elsewhere belongs into `parameters`.
            parameters: values of query parameters by name, which are declared here: str, int (a KQL long) or datetime.

        Returns:
            One dict for each row. Datetimes are text with seven digits, dynamic values what their JSON says.

        Raises:
            ContinuationError: the continuation or a parameter cannot be sent.
            PartialResultError: the answer exceeds ADX's 500,000 rows or 64 MB; `to_pandas` reads in parts.
            AdxError: ADX refused the query or could not be asked; a table that is not there is a MissingObjectError.
        """
        values = parameters or {}
        return self._adx.client.query(partition_kql.continued(self.query, continuation, values), parameters=values)

    def to_pandas(self) -> "pd.DataFrame":
        """All rows as a DataFrame; see `frames.pandas_frame` for its types.

        Raises:
            AdxError: as `run`; rows are read in parts that fit into an answer.
            ModuleNotFoundError: the extra `frames` is not installed.
        """
        return self._frame(pandas_frame)

    def to_arrow(self) -> "pa.Table":
        """All rows as an Arrow table; see `frames.arrow_table` for its types.

        Raises:
            As `to_pandas`.
        """
        return self._frame(arrow_table)

    @property
    def web_ui_url(self) -> str | None:
        """An address that opens the query, with its first 1,000 rows, in the ADX web UI; None for a local tenant."""
        uri = str(self._adx.settings.adx_cluster_uri)
        return web_ui_link(uri, self.database, f"{self.query}\n| take {_SHOWN}")

    def _frame(self, make: Callable[[Sequence[Column], Iterable[dict[str, Any]]], _Frame]) -> _Frame:
        columns = typed_columns(self._source) if self._is_typed else self._source.columns
        return make(columns, chain.from_iterable(self._rows(window) for window in self.windows))

    def _rows(self, window: Window) -> Iterator[dict[str, Any]]:
        if self._is_typed:
            return typed_rows(self._adx.client, self._source, window)
        column = SNAPSHOT_TIME if self._source.kind == "snapshot" else self._source.time_column or ""
        # No row of the window can have come before it, and ADX leaves older extents alone.
        since = window.start - CLOCKS_APART
        return records(self._adx.client, self.table, column, window, ingested_since=since)


def kql_handle(adx: AdxResource, asset: dg.AssetKey | str, *spans: dg.TimeWindow | Window) -> KqlHandle:
    """The rows of an asset in some spans of time.

    For an asset that takes no upstream value; `context.partition_time_window` is the span of its own partition.

    Args:
        adx: the database.
        asset: `adx/DeviceLogonEvents` for typed rows, `adx/DeviceLogonEventsRaw` for records; the last part counts.
        spans: half-open, at least one; of a snapshot table whole days.

    Raises:
        UnknownTableError: there is no such Defender table.
        ConfigurationError: MigrationConfiguration says nothing of it that can be followed.
        SnapshotNotPublishedError: of a day there is no published snapshot.
        AdxError: ADX could not be asked.
        ValueError: no span, or an empty one.
    """
    key = dg.AssetKey.from_user_string(asset) if isinstance(asset, str) else asset
    name = key.path[-1]
    state = adx.migration_state()
    configuration = state.configuration(name.removesuffix("Raw"))
    table, is_typed = configuration.table, not name.endswith("Raw")
    windows = merge(span if isinstance(span, Window) else window_of(span) for span in spans)
    if table.kind == "snapshot":
        windows = tuple(state.published_on(configuration, day) for window in windows for day in window.bins(_DAY))
    bounds = [(window.start, window.end) for window in windows]
    destination = typed_table_name(table) if is_typed else configuration.destination_table
    query = partition_kql.typed_rows(table, bounds) if is_typed else partition_kql.raw_rows(table, destination, bounds)
    return KqlHandle(adx.settings.adx_database, destination, windows, query, adx, table, is_typed)
