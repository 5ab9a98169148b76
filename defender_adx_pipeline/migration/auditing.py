"""Exactly one audit row for every attempt, also when it fails; with what the attempt has cost.

Here: when the row is written, and what it says of a failure. Not here: what an attempt does (`attempt`,
`snapshot_attempt`), the row's columns (`audit`) and the table it goes to (`state`).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.migration.audit import AuditRow, AuditStatus, Tally
from defender_adx_pipeline.migration.ledger import RunIdentity, calls_row
from defender_adx_pipeline.migration.planner import Clock
from defender_adx_pipeline.migration.state import StateStore

AuditCallback = Callable[[AuditRow, Tally], None]

INACTIVE = (
    "IsActive is false in MigrationConfiguration, so nothing was read. Append a row with IsActive true to move the"
    " table again."
)


def no_observer(row: AuditRow, tally: Tally) -> None:
    """Tell nobody but the audit log."""
    del row, tally


class Auditor:
    """Writes the audit rows of one process step.

    Args:
        state: where they go.
        hunting_client: whose calls are counted.
        observe: is told of every audit row, with the attempt's numbers, after the row was written.
        clock: the present.
        audit_id: names the one audit row of this attempt (`audit.audit_id`), where somebody else may have to write it.
    """

    def __init__(
        self,
        *,
        state: StateStore,
        hunting_client: HuntingClient,
        observe: AuditCallback,
        clock: Clock,
        audit_id: str | None,
    ) -> None:
        self._state = state
        self._hunting = hunting_client
        self._observe = observe
        self._clock = clock
        self._audit_id = audit_id
        self._counted, self._usage = time.monotonic(), hunting_client.usage

    @contextmanager
    def failure(self, source_table: str, run: RunIdentity, tally: Tally) -> Iterator[None]:
        """Count time and calls; write the audit row of a failure, and what it has cost into the ledger."""
        self._counted, self._usage = time.monotonic(), self._hunting.usage
        try:
            yield
        except BaseException as error:
            self.count(tally)
            tally.error = error
            try:
                self.write(source_table, "Failed", _failure(source_table, error, tally), tally)
            except AdxError as second:
                error.add_note(f"The audit row could not be written either: {second}")
            else:
                self._record_calls(source_table, run, tally, error)
            raise
        self.count(tally)

    def count(self, tally: Tally) -> None:
        """Bring time and calls of the attempt under way up to now."""
        now, usage = time.monotonic(), self._hunting.usage
        used = usage - self._usage
        tally.calls += used.calls
        tally.retries += used.retries
        tally.answer_bytes += used.bytes
        tally.quota_wait += used.quota_wait
        tally.seconds += now - self._counted
        self._counted, self._usage = now, usage

    def write(self, source_table: str, status: AuditStatus, reason: str, tally: Tally) -> None:
        """Write the audit row of an attempt, and tell of it.

        Raises:
            AdxError: it could not be written; it was told of as a failure.
        """
        row = AuditRow(source_table, self._clock(), status, reason, tally.loaded_rows)
        try:
            self._state.append_audit(row, once=self._audit_id)
        except AdxError as error:
            if not self._is_audited():
                why = f"{reason}; the audit row could not be written: {error}".removeprefix("; ")
                self._observe(replace(row, status="Failed", failure_reason=why), tally)
                raise
        self._observe(row, tally)

    def _is_audited(self) -> bool:
        """Whether the row was written although no reply said so; unknown is no."""
        if self._audit_id is None:
            return False
        try:
            return self._state.has_audit(self._audit_id)
        except AdxError:
            return False

    def _record_calls(self, source_table: str, run: RunIdentity, tally: Tally, error: BaseException) -> None:
        """Into the ledger: calls of a failed attempt that none of its rows counts."""
        costs = tally.unrecorded()
        if not costs["Calls"]:
            return
        row = calls_row(run, source_table=source_table, state="Failed", now=self._clock(), **costs)
        try:
            self._state.append_ledger([row])
        except AdxError as second:
            error.add_note(
                f"Its {costs['Calls']} hunting calls are not in the ledger, which could not be written: {second}"
            )
        else:
            tally.record(costs)


def _failure(table: str, error: BaseException, tally: Tally) -> str:
    """What failed, and what is there all the same: an error of a client knows neither window nor what was loaded."""
    what = (
        f"{table} {tally.window or '(from its watermark on)'}: {tally.loaded_rows} rows of this attempt are confirmed"
    )
    stays = f" and kept, and the watermark is {tally.watermark}" if tally.watermark else " and kept"
    return f"{what}{stays}. {type(error).__name__}: {error}"
