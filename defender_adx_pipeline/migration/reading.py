"""Reading a slice from Defender, in as many answers as it takes.

A slice is one blob; an answer is one call. Where a slice turns out larger than one answer may be, its window is halved
and read in parts that still go into the same blob, so that a slice's bounds and its tag never change.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.defender.errors import QueryContext, TooLargeError
from defender_adx_pipeline.defender.wire import Answer
from defender_adx_pipeline.migration.errors import UnsplittableError
from defender_adx_pipeline.migration.windows import Window


class SliceReader:
    """Reads windows of one table as records.

    Args:
        client: the hunting client.
        table: the table; it has a time column.
        dynamic_columns: columns of KQL type dynamic, asked for as text so that no layer in between alters them.
    """

    def __init__(self, client: HuntingClient, table: DefenderTable, dynamic_columns: Sequence[str]) -> None:
        self._client = client
        self._table = table
        self._dynamic = tuple(dynamic_columns)

    def records(self, window: Window) -> Iterator[dict[str, Any]]:
        """Every record of the window, once, in no particular order.

        Raises:
            UnsplittableError: one microsecond holds more than an answer may.
            HuntingError: Defender refused or failed, after the client's own tries.
        """
        parts = [window]
        while parts:
            part = parts.pop()
            try:
                answer = self._ask(part)
            except TooLargeError as error:
                parts.extend(reversed(self._halves(part, error)))
                continue
            if answer.maybe_truncated:
                # As many rows as the cap: there may be more, and no flag would tell.
                parts.extend(reversed(self._halves(part, None)))
                continue
            yield from answer.take_records()

    def _ask(self, part: Window) -> Answer:
        time_column = self._table.time_column
        if time_column is None:
            raise ValueError(f"{self._table.name} has no time column to read it by")
        query = hunting.window_rows(self._table.name, time_column, part.start, part.end, dynamic_columns=self._dynamic)
        context = QueryContext(table=self._table.name, purpose="read rows", window=str(part))
        return self._client.run(query, context=context, tostring_columns=self._dynamic)

    def _halves(self, part: Window, cause: TooLargeError | None) -> tuple[Window, Window]:
        halves = part.halves()
        if halves is None:
            raise UnsplittableError(self._table.name, part) from cause
        return halves
