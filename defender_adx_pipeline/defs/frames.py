"""Rows of a raw or a typed table as a pandas DataFrame or an Arrow table, with the documented columns and types.

Here: turning rows into frames. pandas and pyarrow are the extra `frames`, imported only when a frame is asked for.
Not here: reading (`migration.readback`). Datetimes stay text with all their digits: pandas would keep them, Arrow's and
Python's own types do not agree on seven.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from enum import Enum
from itertools import chain
from typing import Any, Self

import orjson

from defender_adx_pipeline.adx.typed_tables import typed_columns
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.migration.readback import records, typed_rows
from defender_adx_pipeline.migration.windows import Window

_DAY = timedelta(days=1)
_PANDAS = {"long": "Int64", "int": "Int64", "bool": "boolean", "real": "Float64"}


class FrameType(Enum):
    """What a downstream asset takes."""

    PANDAS = "pandas.DataFrame"
    ARROW = "pyarrow.Table"

    @classmethod
    def of(cls, annotation: Any, asset: str) -> Self:
        """The frame that a parameter's annotation asks for.

        Raises:
            TypeError: it asks for something else.
        """
        module = str(getattr(annotation, "__module__", "")).split(".")[0]
        named = f"{module}.{getattr(annotation, '__name__', annotation)}"
        for member in cls:
            if member.value == named:
                return member
        raise TypeError(
            f"{asset} can be loaded as pandas.DataFrame or pyarrow.Table, not as {named}: annotate the parameter of the"
            " downstream asset with one of the two"
        )


def read_frame(adx: AdxResource, source_table: str, window: Window, wanted: FrameType, *, typed: bool = False) -> Any:
    """The rows of a window, or the snapshots of its days.

    Args:
        adx: the database.
        source_table: the Defender table.
        window: the partitions.
        wanted: the kind of frame.
        typed: whether to read the typed table, or else the records of the table's configured destination. A value that
            does not fit its column is null in the typed table; in a record it is as Defender gave it.

    Raises:
        MissingObjectError: there is no typed table.
        SnapshotNotPublishedError: of a day of the window there is no published snapshot.
    """
    state = adx.migration_state()
    configuration = state.configuration(source_table)
    destination = configuration.destination_table
    rows: Iterable[dict[str, Any]]
    if configuration.table.kind == "snapshot":
        windows, column = [state.published_on(configuration, day) for day in window.bins(_DAY)], SNAPSHOT_TIME
    else:
        windows, column = [window], configuration.table.time_column or ""
    if typed:
        rows = chain.from_iterable(typed_rows(adx.client, configuration.table, part) for part in windows)
        columns = typed_columns(configuration.table)
    else:
        rows = chain.from_iterable(records(adx.client, destination, column, part) for part in windows)
        columns = configuration.table.columns
    return pandas_frame(columns, rows) if wanted is FrameType.PANDAS else arrow_table(columns, rows)


def pandas_frame(columns: Sequence[Column], rows: Iterable[dict[str, Any]]) -> Any:
    """A DataFrame: the documented columns in their order, then others that the records have.

    Numbers and bools are nullable types, datetimes and strings text, dynamic values Python objects.
    """
    import pandas as pd  # noqa: PLC0415 - an extra

    frame = pd.DataFrame.from_records(list(rows))
    names = [column.name for column in columns]
    frame = frame.reindex(columns=[*names, *(name for name in frame.columns if name not in names)])
    types = {c.name: _PANDAS[c.type] for c in columns if c.type in _PANDAS}
    return frame.astype(types)


def arrow_table(columns: Sequence[Column], rows: Iterable[dict[str, Any]]) -> Any:
    """An Arrow table: the documented columns in their order, then others as text; dynamic values are JSON text."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    types = {"long": pa.int64(), "int": pa.int64(), "bool": pa.bool_(), "real": pa.float64()}
    kinds = {column.name: types.get(column.type, pa.string()) for column in columns}
    lists: dict[str, list[Any]] = {name: [] for name in kinds}
    for count, row in enumerate(rows):
        for name in row:
            if name not in lists:
                lists[name] = [None] * count
        for name, values in lists.items():
            value = row.get(name)
            if kinds.get(name, pa.string()) == pa.string() and value is not None and not isinstance(value, str):
                value = orjson.dumps(value).decode()
            values.append(value)
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in lists])
    return pa.table(lists, schema=schema)
