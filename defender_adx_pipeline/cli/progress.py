"""Progress of the demo: bars on a terminal, plain lines otherwise. Not here: what is done."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """One bar for all tables and one for each group of them."""

    def __init__(self, console: Console, title: str, tables: int) -> None:
        self._console = console
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rows]:>9,} rows"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )
        self._rows = 0
        self._group = ""
        self._group_rows = 0
        self._all = self._progress.add_task(title, total=tables, rows=0)
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, group: str, tables: int) -> None:
        """A run over a group of tables begins."""
        self._group, self._group_rows = group, 0
        self._bar = self._progress.add_task(group, total=tables, rows=0)
        if not self._live:
            self._console.print(f"Dagster run over {group}: {tables} tables")

    def advance(self, table: str, rows: int, status: str) -> None:
        """An attempt of the group ended."""
        self._rows += rows
        self._group_rows += rows
        if self._bar is not None:
            self._progress.update(self._bar, advance=1, rows=self._group_rows)
        self._progress.update(self._all, advance=1, rows=self._rows)
        if not self._live:
            self._console.print(f"  {table}: {status}, {rows:,} rows loaded", highlight=False)

    def failed(self, message: str) -> None:
        """A step failed."""
        self._progress.console.print(f"[red]failed[/red] {escape(message)}", highlight=False)
