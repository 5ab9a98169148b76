"""`status` on a terminal: a line for each table, sparklines, the totals, and why what failed has failed.

Here: layout, for narrow and wide terminals. Not here: the numbers (`status`, `figures`).
"""

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from defender_adx_pipeline.cli.figures import FAILURE_DAYS, NO_FIGURES, Figures
from defender_adx_pipeline.cli.status import TableState

_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 120
"""Columns from which on everything is shown; below, what a table of 80 columns has room for."""

_NARROW_BARS = 14

_COLOURS = {"ok": "green", "late": "yellow", "very late": "red", "never complete": "yellow"}
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def sparkline(numbers: Sequence[int]) -> str:
    """A bar for each number, against the greatest: the lowest one means none at all, and any other means some."""
    most = max(numbers, default=0)
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-number * steps // most) if number > 0 else 0] for number in numbers)


def short_number(number: float) -> str:
    """A count in at most five characters: 999, 12.3k, 4.56M."""
    for size, unit in _UNITS:
        # What rounds up to the next thousand is said in that unit.
        if number >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"


def print_status(states: Sequence[TableState], figures: Figures | None, console: Console) -> None:
    """A line for each table, then the totals and the reasons of failures."""
    wide = console.width >= _WIDE
    shown = Table(*_columns(figures, wide=wide), box=box.SIMPLE_HEAD if wide else None, pad_edge=False)
    for state in states:
        shown.add_row(*_cells(state, figures, wide=wide))
    console.print(shown)
    _print_totals(states, figures, console, wide=wide)
    for state in states:
        if not state.ok:
            console.print(f"[red]{state.table}[/red]: {escape(state.reason)}", highlight=False)
    if figures is None:
        console.print(f"[yellow]{escape(NO_FIGURES)}[/yellow]", highlight=False)


def _columns(figures: Figures | None, *, wide: bool) -> list[Column]:
    columns = [_column("Table"), _column("Lag", justify="right")]
    if wide:
        columns += [_column("Complete to"), _column("Open", justify="right")]
    columns.append(_column("Last run"))
    if figures is not None:
        if wide:
            columns.append(_column(f"Failed, {FAILURE_DAYS} d", justify="right"))
        columns += [_column("Today", justify="right"), _column(f"{_bars(figures, wide=wide)} d")]
    return columns


def _column(title: str, *, justify: Literal["left", "right"] = "left") -> Column:
    return Column(title, justify=justify, no_wrap=True)


def _bars(figures: Figures, *, wide: bool) -> int:
    """How many bars a sparkline has room for."""
    return len(figures.days) if wide else min(len(figures.days), _NARROW_BARS)


def _cells(state: TableState, figures: Figures | None, *, wide: bool) -> list[Text]:
    style = "" if state.active else "dim"
    cells = [Text(state.table, style=style), _lag_cell(state)]
    if wide:
        cells += [Text(_complete(state), style=style), Text(str(state.open_slices or ""))]
    cells.append(_run_cell(state, wide=wide))
    if figures is not None:
        if wide:
            cells.append(Text(str(state.failures or ""), style="red"))
        days = (state.rows_per_day or [])[-_bars(figures, wide=wide) :]
        cells.append(Text(short_number(state.rows_today) if state.rows_today else ""))
        cells.append(Text(sparkline(days), style="cyan" if any(days) else "dim"))
    return cells


def _lag_cell(state: TableState) -> Text:
    if not state.active:
        return Text("off", style="dim")
    seconds = state.lag_seconds if state.lag_state is None else state.behind_seconds
    if seconds is None:
        return Text("never", style="yellow")
    return Text(_duration(seconds), style=_COLOURS.get(state.lag_state or "", ""))


def _run_cell(state: TableState, *, wide: bool) -> Text:
    colour = {"Success": "green", "Failed": "red"}.get(state.audit_status, "yellow")
    words = state.audit_status or ("Failed" if state.reason else "never")
    when = f" {state.audit_time[:16].replace('T', ' ')}" if wide and state.audit_time else ""
    return Text(words + when, style=colour)


def _complete(state: TableState) -> str:
    if state.published is not None:
        return f"{state.published[:16].replace('T', ' ')}, {state.published_rows or 0:,} rows"
    text = state.covered_to if state.complete_until is None else state.complete_until
    return text[:16].replace("T", " ")


def _print_totals(states: Sequence[TableState], figures: Figures | None, console: Console, *, wide: bool) -> None:
    active = [state for state in states if state.active]
    late = sum(state.lag_state not in (None, "ok", "inactive") for state in active)
    parts = [f"{len(states)} tables, {len(active)} active" + (f", {late} late or not complete" if late else "")]
    if figures is not None:
        everything, today = figures.total(days=figures.days), figures.total(days=figures.days[-1:])
        quota = figures.quota
        parts += [
            f"today {today.rows:,} rows, {short_number(today.bytes)}B",
            f"{len(figures.days)} days {everything.rows:,} rows, {short_number(everything.bytes)}B",
            f"{quota.calls:,} hunting calls today, {quota.share:.1%} of the quota",
            f"busiest hour {quota.busiest_hour:,} of {quota.calls_per_hour:,}",
        ]
    console.print(("; " if wide else "\n").join(parts), style="bold", highlight=False)


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes}m"
    return f"{minutes // 60}h" if minutes < 48 * 60 else f"{minutes // 1440}d"
