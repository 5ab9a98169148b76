"""The audit row of an attempt that could not write its own: its process was killed, or could not reach ADX any more.

Here: whether the row is missing, and what it says, from the ledger. Not here: which attempts have ended (`defs` asks
Dagster). It may be asked any number of times, by several at once: an attempt and those who write for it name the row
alike (`audit.audit_id`), and ADX takes a name once.
"""

from dataclasses import dataclass
from datetime import datetime

from defender_adx_pipeline.migration.audit import AuditRow, RunSlices, Tally, audit_id
from defender_adx_pipeline.migration.state import StateStore


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that is over, and of which Dagster has no observation."""

    source_table: str
    run_id: str
    partitions: str
    """One partition key, or the first and the last of a range."""
    started: datetime
    ended: datetime
    """By the clock of whoever ended the run, like `started` by that of the step."""
    why: str
    """What Dagster knows of the end."""
    tries: int = 1
    is_snapshot: bool = False


def account(state: StateStore, attempt: EndedAttempt) -> tuple[AuditRow, Tally]:
    """The audit row of the attempt, written if it is missing, and the numbers that the ledger has of it.

    The row is looked for by its tag, so no clock matters. Only to show a row that is there it is found by its time; if
    the clocks of the machines differ by so much that it is not, what is shown says that.

    Raises:
        AdxError: ADX could not be asked or written to; asking again later is safe.
    """
    name = audit_id(attempt.run_id, attempt.source_table, attempt.tries)
    slices = state.run_slices(attempt.source_table, attempt.run_id)
    tally = Tally(loaded_rows=slices.rows, slices=slices.slices, window=slices.window)
    if state.has_audit(name):
        rows = state.audits_between(attempt.source_table, attempt.started, attempt.ended)
        return (rows[0] if rows else _unseen(attempt, slices)), tally
    # At the end of the run and not now: the next run of the table may be over already.
    row = AuditRow(attempt.source_table, attempt.ended, "Failed", _reason(attempt, slices), slices.rows)
    state.append_audit(row, once=name)
    return row, tally


_EVENTS = (
    "The watermark is not past anything that is missing. The next run of these partitions, tick or sweep goes on from"
    " the ledger."
)
_SNAPSHOT = (
    "Nobody sees a snapshot that is not published: VwPublishedSnapshots has those that are. The next run of the same"
    " day goes on with it or takes a new one; once the day is over it cannot be taken any more."
)


def _reason(attempt: EndedAttempt, slices: RunSlices) -> str:
    return (
        f"{attempt.source_table}, partitions {attempt.partitions}: run {attempt.run_id} was killed, or ended without"
        f" being able to say how: {attempt.why} {_kept(slices)} {_SNAPSHOT if attempt.is_snapshot else _EVENTS}"
    )


def _kept(slices: RunSlices) -> str:
    if not slices.slices:
        return "It had planned nothing yet, and loaded nothing."
    left = slices.slices - slices.confirmed
    kept = f"Of its {slices.slices} slices over {slices.window}, {slices.confirmed} are confirmed in the ledger"
    kept += f" ({slices.rows} rows, which stay)."
    return kept if not left else f"{kept} What the other {left} brought is kept and not yet counted."


def _unseen(attempt: EndedAttempt, slices: RunSlices) -> AuditRow:
    reason = (
        f"{attempt.source_table}: run {attempt.run_id} wrote its audit row, but at no time between its start and its"
        " end, so the clocks of the machines differ. Look for the row in MigrationAuditLog, and check NTP."
    )
    return AuditRow(attempt.source_table, attempt.ended, "Failed", reason, slices.rows)
