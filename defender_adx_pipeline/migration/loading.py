"""Doing a plan: read each slice, load it as one tagged blob, wait until ADX has it, record it.

Here: one round over the slices of a plan. Reading the next slice overlaps uploading the last one; memory holds one
answer of Defender and the compressed blobs under way. Not here: choosing slices (`planning`) and the verdict over the
window (`attempt`).
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from defender_adx_pipeline.adx.blobs import Blob, BlobBuilder
from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxError, RecordTooLargeError
from defender_adx_pipeline.adx.ingestion import QueuedBlob, SliceLoader
from defender_adx_pipeline.defender.wire import encode_record
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.errors import NotConfirmedError
from defender_adx_pipeline.migration.extraction import Extraction
from defender_adx_pipeline.migration.identity import RecordKeys, missing_records
from defender_adx_pipeline.migration.ledger import slice_row
from defender_adx_pipeline.migration.plan import Plan
from defender_adx_pipeline.migration.readback import records_of_part
from defender_adx_pipeline.migration.slices import DeadLetter, Slice
from defender_adx_pipeline.migration.state import StateStore

_UPLOADS_AHEAD = 2
"""Compressed blobs that may wait for the uploader while the next slice is read."""

_AFTER_FAILURE = timedelta(minutes=2)
"""How long a failed attempt still waits for what it had queued, so that the ledger and the audit say what is there."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Something that happened to a slice, for progress bars and logs."""

    table: str
    event: Literal["planned", "read", "queued", "confirmed"]
    rows: int
    slices: int = 1


ProgressCallback = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """Tell nobody."""
    del progress


@dataclass(slots=True)
class _Round:
    """What happened so far in one round over a plan."""

    plan: Plan
    queued: dict[str, tuple[Slice, QueuedBlob]] = field(default_factory=dict)
    empty: list[Slice] = field(default_factory=list)
    """Slices in which nothing was left to load."""
    too_large: list[DeadLetter] = field(default_factory=list)

    def slices_queued(self) -> list[Slice]:
        """The slices that were queued in this round."""
        return [item for item, _ in self.queued.values()]


class SliceDriver:
    """Drives the slices of plans from Defender into ADX."""

    def __init__(
        self,
        *,
        adx: AdxClient,
        loader: SliceLoader,
        state: StateStore,
        confirm_timeout: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._adx = adx
        self._loader = loader
        self._state = state
        self._confirm_timeout = confirm_timeout
        self._clock = clock

    def drive(self, extraction: Extraction, tell: ProgressCallback) -> list[DeadLetter]:
        """Load every slice of the plan and wait for its confirmation.

        Returns:
            The records that ADX cannot hold; they were kept out, everything else was loaded.

        Raises:
            NotConfirmedError: a queued slice is not queryable yet, or ADX refused it.
            HuntingError, AdxError, MigrationError: what stopped the round; slices that had been queued by then are
                confirmed first where that is quick, and all is in the ledger.
        """
        plan, tally = extraction.plan, extraction.tally
        tell(Progress(plan.table, "planned", sum(item.expected_rows for item in plan.slices), len(plan.slices)))
        round_ = _Round(plan)
        try:
            self._read_and_queue(extraction, round_, tell)
        except BaseException as error:
            try:
                self._settle(round_, tally, tell, min(_AFTER_FAILURE, self._confirm_timeout))
            except AdxError as second:
                error.add_note(f"What became of the slices queued before could not be found out either: {second}")
            raise
        pending = self._settle(round_, tally, tell, self._confirm_timeout)
        if pending:
            raise NotConfirmedError(_not_confirmed(plan, round_, pending))
        return round_.too_large

    def _read_and_queue(self, extraction: Extraction, round_: _Round, tell: ProgressCallback) -> None:
        plan, tally = extraction.plan, extraction.tally
        with ThreadPoolExecutor(1, thread_name_prefix="upload") as uploader:
            uploads: list[Future[None]] = []
            for item, records in extraction:
                blob = self._blob(records, item, round_)
                tally.slices += 1
                tally.slices_resumed += item.slice_id in plan.resumed
                if blob is None:
                    if plan.expects_nothing(item):
                        round_.empty.append(replace(item, received_rows=0, bytes=0))
                    continue
                tell(Progress(plan.table, "read", blob.rows))
                tally.received_rows += blob.rows
                tally.bytes += blob.raw_bytes
                done = replace(item, received_rows=blob.rows, bytes=blob.raw_bytes)
                uploads.append(uploader.submit(self._queue, done, blob, round_, tell))
                if len(uploads) > _UPLOADS_AHEAD:
                    uploads.pop(0).result()
            for upload in uploads:
                upload.result()
        if round_.queued:
            self._record(round_, "Queued", round_.slices_queued())

    def _blob(self, records: Iterable[dict[str, Any]], item: Slice, round_: _Round) -> Blob | None:
        """The records of a slice, or None when nothing is left to load."""
        if item.slice_id in round_.plan.with_present_rows:
            records = self._without_present(records, item, round_.plan)
        keys = RecordKeys(round_.plan.configuration.table)
        with BlobBuilder(item.destination_table) as builder:
            for record in records:
                try:
                    builder.add(encode_record(record))
                except RecordTooLargeError as error:
                    letter = DeadLetter(item, keys.readable(record), error.size, str(error))
                    round_.too_large.append(letter)
            return builder.finish() if builder.rows else None

    def _without_present(self, records: Iterable[dict[str, Any]], item: Slice, plan: Plan) -> Sequence[dict[str, Any]]:
        """The records that ADX does not have in the slice's window."""
        table = plan.configuration.table
        present = records_of_part(self._adx, item.destination_table, table.time_column or "", item.window)
        return missing_records(records, present, RecordKeys(table))

    def _queue(self, item: Slice, blob: Blob, round_: _Round, tell: ProgressCallback) -> None:
        with blob:
            queued = self._loader.queue(item.destination_table, item.slice_id, blob)
        round_.queued[item.slice_id] = (item, queued)
        tell(Progress(item.source_table, "queued", item.received_rows))

    def _settle(self, round_: _Round, tally: Tally, tell: ProgressCallback, timeout: timedelta) -> dict[str, str]:
        """Wait for the queued slices and record what became of them.

        Returns:
            Ids of slices that are not confirmed, with what is known of each.
        """
        pending: dict[str, str] = {}
        done = list(round_.empty)
        if round_.queued:
            destination = round_.plan.configuration.destination_table
            blobs = [queued for _, queued in round_.queued.values()]
            outcome = self._loader.confirm(destination, blobs, timeout=timeout)
            for identity, (item, _) in round_.queued.items():
                if identity in outcome.landed:
                    done.append(item)
                else:
                    pending[identity] = outcome.failed.get(identity, "not queryable yet")
        self._record(round_, "Confirmed", done)
        # Counted once the ledger has it: what it has not, the next run finds by its tag and counts.
        for item in done:
            tally.loaded_rows += item.received_rows
            tell(Progress(item.source_table, "confirmed", item.received_rows))
        self._record(round_, "Queued", [round_.queued[identity][0] for identity in pending], pending)
        return pending

    def _record(
        self,
        round_: _Round,
        state: Literal["Queued", "Confirmed"],
        items: Sequence[Slice],
        reasons: dict[str, str] | None = None,
    ) -> None:
        if not items:
            return
        now, run = self._clock(), round_.plan.run
        self._state.append_ledger(
            [
                slice_row(item, run, state=state, now=now, Reason=(reasons or {}).get(item.slice_id, ""))
                for item in items
            ]
        )


def _not_confirmed(plan: Plan, round_: _Round, pending: dict[str, str]) -> str:
    lines = [f"{round_.queued[identity][0]}: {reason.rstrip('. ')}" for identity, reason in sorted(pending.items())]
    shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
    return (
        f"{plan.table} {plan.window}: {len(pending)} of {len(round_.queued)} slices that were queued to"
        f" {plan.configuration.destination_table} are not confirmed: {shown}. They stay Queued in the ledger, the"
        " watermark stays before them, and the next run sends them again under the same tag, which ADX takes once."
        " Look at `.show ingestion failures` if it happens again."
    )
