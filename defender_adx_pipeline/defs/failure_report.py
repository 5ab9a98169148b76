"""The report of a failed load, as Markdown: what happened, what is there all the same, what to do, where to look.

Here: the text. Not here: what to do about each error (`advice`), and where the text is shown (`failing`).
Whatever stands in it may be read by everybody who sees the Dagster UI: messages of errors, counts, names, KQL.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from defender_adx_pipeline.adx import health_kql, kql
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defender import hunting
from defender_adx_pipeline.defs.advice import steps
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.configuration import NOT_LOADED
from defender_adx_pipeline.migration.errors import DeadLetterError, LostRowsError
from defender_adx_pipeline.migration.scope import KEPT
from defender_adx_pipeline.migration.windows import Window

_SHOWN = 10
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """What is known of a load that failed.

    Args:
        table: the Defender table.
        error: what it failed with.
        run_id: the run.
        partitions: one partition key, or the first and the last of a range.
        tally: its numbers; None where it failed before it began with the table.
        open_slices: rows of `health_kql.open_slices`; None where they could not be asked for.
    """

    table: DefenderTable
    error: BaseException
    run_id: str
    partitions: str
    tally: Tally | None = None
    open_slices: Sequence[Mapping[str, Any]] | None = None

    def headline(self) -> str:
        """The one error, in one paragraph: which table, what happened, and what to do."""
        said = str(self.error).strip() or type(self.error).__name__
        notes = " ".join(getattr(self.error, "__notes__", ()))
        whole = f"{said} {notes}".strip()
        return whole if self.table.name in whole else f"{self.table.name}: {whole}"

    def markdown(self) -> str:
        """The report."""
        kind = "snapshot" if self.table.kind == "snapshot" else "load"
        parts = [
            f"## The {kind} of {self.table.name} failed",
            # A fence in it would take in all that follows.
            self.headline().replace("```", "'''"),
            _table(("", ""), self._facts()),
            *self._numbers(),
            f"**Kept.** {self._kept()}",
            f"**Not there.** {self._missing()}",
            f"**Open in the ledger.** {self._open()}",
            "**What to do**",
            "\n".join(f"{number}. {step}" for number, step in enumerate(steps(self.error), 1)),
            *self._commands(),
            *self._queries(),
        ]
        return "\n\n".join(parts)

    @property
    def _window(self) -> Window | None:
        return self.tally.window if self.tally else None

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("table", f"{self.table.name} to {self.table.raw_table}"),
            ("window", str(self._window) if self._window else "none was chosen yet"),
            ("partitions", self.partitions or "none"),
            ("run", self.run_id),
            ("error", type(self.error).__name__),
        ]

    def _numbers(self) -> list[str]:
        tally = self.tally
        if tally is None or tally.window is None:
            return []
        return [
            _table(
                ("rows in Defender", "rows read", "rows in ADX"),
                [(f"{tally.expected_rows:,}", f"{tally.received_rows:,}", f"{tally.queryable_rows:,}")],
            ),
            "As far as it got: a number that it did not come to is 0.",
        ]

    def _kept(self) -> str:
        if self.tally is None or not self.tally.loaded_rows:
            said = "What ADX had before. This attempt loaded nothing"
        else:
            said = f"{self.tally.loaded_rows:,} rows of this attempt are confirmed in ADX"
        if self.table.kind == "snapshot":
            return f"{said}. Rows of a snapshot are seen by nobody before it is published; the one before is served."
        mark = self.tally.watermark if self.tally else ""
        return f"{said}." + (f" The watermark is {mark}, before anything that is missing." if mark > NOT_LOADED else "")

    def _missing(self) -> str:
        if isinstance(self.error, LostRowsError):
            return "What Defender no longer keeps of the window that the message names. It cannot be had any more."
        if isinstance(self.error, DeadLetterError):
            return "The records that ADX cannot hold. They are in Defender until they are 30 days old."
        if self.table.kind == "snapshot":
            return "The snapshot of the day. It can be taken until the day is over in UTC, and not afterwards."
        start = self._window.start if self._window else None
        if start is None:
            return "What came since the last success. Defender keeps it for 30 days, and nothing is lost before."
        return (
            f"What ADX lacks of the window. Nothing is lost: Defender keeps its first rows until"
            f" {to_text(start + KEPT)[:16]}Z, and the next run loads them."
        )

    def _open(self) -> str:
        if self.open_slices is None:
            return "It could not be asked for."
        if not self.open_slices:
            return "No slice."
        rows = [
            (
                str(row["State"]),
                f"{str(row['WindowStart'])[:19]} to {str(row['WindowEnd'])[:19]}",
                f"{int(row['ExpectedRows'] or 0):,}",
                str(row["Attempt"] or 1),
                str(row["Reason"] or ""),
            )
            for row in self.open_slices[:_SHOWN]
        ]
        more = len(self.open_slices) - len(rows)
        number = len(self.open_slices)
        said = f"{number} {'slice' if number == 1 else 'slices'}, which the next run goes on with"
        said += f"; the first {_SHOWN}:" if more else ":"
        return f"{said}\n\n{_table(('state', 'window', 'rows', 'attempt', 'reason'), rows)}"

    def _commands(self) -> list[str]:
        name, window = self.table.name, self._window
        lines = ["defender-adx doctor", "defender-adx status"]
        if self.table.kind == "snapshot" or window is None:
            lines.append(f"defender-adx sync {name}")
        else:
            first, last = window.start.date(), (window.end - timedelta(microseconds=1)).date() + _DAY
            lines.append(f"defender-adx sync {name} --from {first} --to {last}")
        return ["On the command line, without Dagster:", _fenced("sh", "\n".join(lines))]

    def _queries(self) -> list[str]:
        name, raw, window = self.table.name, self.table.raw_table, self._window
        shown = [
            "**Where to look.** In ADX, the last attempts and what is open:",
            _fenced("kusto", health_kql.recent_audits(name)),
            _fenced("kusto", health_kql.open_slices(name)),
        ]
        if isinstance(self.error, DeadLetterError):
            shown += ["The records that were kept out:", _fenced("kusto", health_kql.dead_letters(name))]
        column = self.table.time_column
        if self.table.kind == "event" and column is not None and window is not None:
            shown += [
                "Rows by hour, in ADX and in Defender's portal:",
                _fenced("kusto", kql.time_counts(raw, column, window.start, window.end, _HOUR)),
                _fenced("kusto", hunting.time_counts(name, column, window.start, window.end, _HOUR)),
            ]
        return shown


def _fenced(language: str, text: str) -> str:
    # A fence that the text cannot close.
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
