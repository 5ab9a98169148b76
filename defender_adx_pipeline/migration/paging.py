"""Pages: how a snapshot is read of a table whose rows have no key, and what holds a page to what was counted.

Here: the pages of a table as values, and the comparison of the rows that were read with them. Not here: the queries
(`defender.hunting`), asking for them (`snapshot_planner`, `reading`), and what follows when a page differs
(`snapshot_attempt`).

A page is a run of row numbers in the order of all columns, which every call works out anew. Over a table that changes
the rows at its edges would get lost or doubled. So one query gives of every page its number of rows and a sum over the
hashes of their text, at one moment; a page that is read must have the same two, or nothing of it is loaded. What passes
is the table as it was at that moment, whatever happens meanwhile, also where a table changes and changes back. A page
with other rows has the same sum once in 2^31 times.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.migration.errors import PagingLimitError, TableChangedError
from defender_adx_pipeline.migration.slices import Slice

MOST_PAGES = 50
"""Each page makes Defender sort the whole table, so that many pages cost more than a key would."""


class Span(NamedTuple):
    """Row numbers from `first` to `last`, both in it, counted from 1."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"rows {self.first} to {self.last}"

    @property
    def rows(self) -> int:
        """How many they are."""
        return self.last - self.first + 1

    def halves(self) -> "tuple[Span, Span] | None":
        """Two spans that share them out; None for a single row."""
        if self.first >= self.last:
            return None
        middle = (self.first + self.last) // 2
        return Span(self.first, middle), Span(middle + 1, self.last)


class Page(NamedTuple):
    """One page as it was counted."""

    rows: int
    content: int
    """The sum of its rows' hashes."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of a table at one moment."""

    table: str
    columns: tuple[Column, ...]
    """All that the tenant's table has, in the order that rows are sorted by."""
    size: int
    """Rows of a page; the last one may have fewer."""
    pages: tuple[Page, ...]
    """In their order; none for a table without rows."""

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return sum(page.rows for page in self.pages)

    @property
    def rows_by_page(self) -> Mapping[int, int]:
        """Rows by number of the page, from 0; one page without rows for a table without rows."""
        return {number: page.rows for number, page in enumerate(self.pages)} or {0: 0}

    @property
    def content(self) -> str:
        """32 hexadecimal digits over all pages: with the same, what was read of them may be gone on with."""
        named = [f"{column.name} {column.type}" for column in self.columns]
        counted = [f"{page.rows} {page.content}" for page in self.pages]
        return hashlib.sha256("\n".join([*named, "", *counted]).encode()).hexdigest()[:32]

    def check_number(self) -> None:
        """Refuse to read more pages than `MOST_PAGES`.

        Raises:
            PagingLimitError: they are too many.
        """
        if len(self.pages) > MOST_PAGES:
            raise PagingLimitError(
                f"{self.table}: its {self.rows} rows are {len(self.pages)} pages of {self.size}, and at most"
                f" {MOST_PAGES} are read by row number, since each makes Defender sort the whole table. Nothing was"
                " read, and the snapshot before is still served. In DEFENDER_TABLES_FILE, give the table a key"
                ' ("identity") and "paging": "hash"; or raise DEFENDER_SNAPSHOT_ROWS or DEFENDER_SNAPSHOT_BYTES if they'
                " are below what an answer holds."
            )

    def span(self, item: Slice) -> Span:
        """The row numbers of a slice, which is a page or the whole table."""
        number = item.bucket.number if item.bucket else 0
        return Span(number * self.size + 1, number * self.size + self.pages[number].rows)

    def verified(self, item: Slice, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The records of a slice without their hash, as long as they are those that were counted.

        Raises:
            TableChangedError: after the last one, when they are not.
        """
        column = hunting.row_hash_column(self.columns)
        rows = content = 0
        for record in records:
            content += int(record.pop(column, None) or 0)
            rows += 1
            yield record
        page = self.pages[item.bucket.number if item.bucket else 0]
        if rows != page.rows:
            raise TableChangedError(_changed(self.table, item, f"{page.rows} rows were counted and {rows} read"))
        if content != page.content:
            raise TableChangedError(_changed(self.table, item, f"of the {rows} rows some are others than were counted"))


def pages_of(table: str, columns: Sequence[Column], size: int, counted: Sequence[Mapping[str, Any]]) -> Pages:
    """The pages that an answer to `hunting.page_contents` tells of.

    Args:
        table: the Defender table.
        columns: its columns.
        size: the rows of a page that were asked for.
        counted: `After`, `Rows` and `Content` of each page, in any order.
    """
    ordered = sorted(counted, key=lambda row: int(row["After"]))
    return Pages(table, tuple(columns), size, tuple(Page(int(row["Rows"]), int(row["Content"])) for row in ordered))


def _changed(table: str, item: Slice, what: str) -> str:
    page = f"page {item.bucket.number} of {item.bucket.of}" if item.bucket else "its one page"
    return (
        f"{table} changed while it was read by row number: in {page} {what}, and pages of two states must not be put"
        " together"
    )
