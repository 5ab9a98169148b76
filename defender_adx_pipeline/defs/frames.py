"""Rows of a raw or a typed table as a pandas DataFrame or an Arrow table, with the documented columns and types.

Here: turning rows into frames, and what an annotation asks for. pandas and pyarrow are the extra `frames`, imported
only when a frame is asked for. Not here: reading (`handles`). Datetimes stay text with all their digits: pandas would
keep them, Arrow's and Python's own types do not agree on seven.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

import orjson

from defender_adx_pipeline.catalogue import Column

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PANDAS = {"long": "Int64", "int": "Int64", "bool": "boolean", "real": "Float64"}


class FrameType(Enum):
    """What a downstream asset takes."""

    HANDLE = "KqlHandle"
    PANDAS = "pandas.DataFrame"
    ARROW = "pyarrow.Table"

    @classmethod
    def of(cls, annotation: Any, asset: str) -> Self:
        """What a parameter's annotation asks for.

        Raises:
            TypeError: it asks for something else.
        """
        name, module = getattr(annotation, "__name__", str(annotation)), str(getattr(annotation, "__module__", ""))
        named = f"{module.partition('.')[0]}.{name}"
        for member in cls:
            if named in (member.value, f"defender_adx_pipeline.{member.value}"):
                return member
        raise TypeError(
            f"{asset} can be loaded as KqlHandle, pandas.DataFrame or pyarrow.Table, not as {named}. Nothing was read."
            " Annotate the parameter of the downstream asset with one of the three; KqlHandle is in"
            " defender_adx_pipeline.defs.downstream."
        )


def pandas_frame(columns: Sequence[Column], rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
    """A DataFrame: the documented columns in their order, then others that the records have.

    Numbers and bools are nullable types, datetimes and strings text, dynamic values Python objects.
    """
    import pandas as pd  # noqa: PLC0415 - an extra

    frame = pd.DataFrame.from_records(list(rows))
    names = [column.name for column in columns]
    frame = frame.reindex(columns=[*names, *(name for name in frame.columns if name not in names)])
    types = {c.name: _PANDAS[c.type] for c in columns if c.type in _PANDAS}
    return frame.astype(types)


def arrow_table(columns: Sequence[Column], rows: Iterable[dict[str, Any]]) -> "pa.Table":
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
