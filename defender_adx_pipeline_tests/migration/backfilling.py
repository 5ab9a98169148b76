"""What the tests of a backfill share: raw records, a client that lets something happen, and what has to be there.

Not here: fixtures and the tests (`test_backfill`, `test_backfill_ingested`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.kql import append_rows
from defender_adx_pipeline.adx.typed_tables import expand_name, typed_table_name, update_policy
from defender_adx_pipeline.catalogue import DefenderTable

Record = dict[str, Any]


class Between:
    """The real client, which lets something happen before or after each replacement, counted from 1."""

    def __init__(
        self,
        adx: AdxClient,
        *,
        before: Callable[[int], object] = lambda _: None,
        after: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._adx, self._before, self._after = adx, before, after
        self.updates: list[str] = []
        self.query = adx.query

    @property
    def replacements(self) -> int:
        return len(self.updates)

    def command(self, text: str, *, idempotent: bool) -> list[Record]:
        if not text.startswith(".update"):
            return self._adx.command(text, idempotent=idempotent)
        self.updates.append(text)
        self._before(self.replacements)
        answer = self._adx.command(text, idempotent=idempotent)
        self._after(self.replacements)
        return answer


def put(adx: AdxClient, table: DefenderTable, records: Sequence[Record]) -> None:
    """Load records, which the update policy expands if there is one."""
    for text in append_rows(table.raw_table, [("Records", "dynamic")], [{"Records": record} for record in records]):
        adx.command(text, idempotent=False)


@contextmanager
def no_policy(adx: AdxClient, table: DefenderTable) -> Iterator[None]:
    """As in a database whose typed tables were not made yet."""
    adx.command(f".delete table {typed_table_name(table)} policy update", idempotent=True)
    try:
        yield
    finally:
        adx.command(update_policy(table), idempotent=True)


def typed(adx: AdxClient, table: DefenderTable) -> Counter[str]:
    return Counter(json.dumps(row, sort_keys=True) for row in adx.query(typed_table_name(table)))


def expanded(adx: AdxClient, table: DefenderTable) -> Counter[str]:
    """What the typed table has to have."""
    return Counter(json.dumps(row, sort_keys=True) for row in adx.query(f"{expand_name(table)}()"))
