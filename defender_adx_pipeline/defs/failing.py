"""How an attempt at a table tells Dagster of itself, above all when it fails: observation, checks, one readable error.

Here: the events. Not here: their text (`failure_report`, `raw_results`), and the steps that fail (`assets`,
`io_manager`).

A load fails inside the IO manager, and the body of the asset does not go on. So the results of its checks are logged
from there, into the log of the step, where they take the place of the results that the run had announced.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from defender_adx_pipeline.adx import health_kql
from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.catalogue import CatalogueError, DefenderTable
from defender_adx_pipeline.defs.advice import EXPECTED, UNTIL_MENDED
from defender_adx_pipeline.defs.checks import COMPLETENESS, DEAD_LETTERS, WATERMARK_LAG
from defender_adx_pipeline.defs.failure_report import FailedLoad
from defender_adx_pipeline.defs.raw_results import completeness_numbers, kept_out, late, unknown
from defender_adx_pipeline.defs.reporting import observation
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.defs.verdicts import Verdict
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.audit import AuditRow, Tally
from defender_adx_pipeline.migration.health import count_dead_letters
from defender_adx_pipeline.settings import SettingsError

REPORT = "report"
"""Name of the metadata that has the report."""

_NO_ADX = (AdxError, SettingsError, CatalogueError)
"""With these nothing more is to be had from ADX."""


@dataclass(slots=True)
class Attempt:
    """One attempt of a step at a table, as Dagster is told of it.

    Args:
        context: the step's, in the body or in the IO manager.
        table: the Defender table.
        adx: asked what is open in the ledger when the attempt fails.
        keys: the partitions.
        run_id: the run.
    """

    context: dg.AssetExecutionContext | dg.OutputContext
    table: DefenderTable
    adx: AdxResource
    keys: Sequence[str]
    run_id: str
    _tally: Tally | None = field(default=None, init=False)
    _load: FailedLoad | None = field(default=None, init=False)

    @property
    def partitions(self) -> str:
        """One partition key, or the first and the last of a range; empty without any."""
        if not self.keys:
            return ""
        return self.keys[0] if len(self.keys) == 1 else f"{self.keys[0]}...{self.keys[-1]}"

    def observe(self, row: AuditRow, tally: Tally) -> None:
        """Log the audit row as an observation; of a failure with its report."""
        self._tally = tally
        # Whoever stops a step waits for it: no report then, which would have to ask ADX.
        report = self._failed(tally.error).markdown() if isinstance(tally.error, Exception) else None
        partition = self.keys[0] if len(self.keys) == 1 else None
        seen = observation(raw_key(self.table), row, tally, partition)
        if report is not None:
            seen = seen.with_metadata({**seen.metadata, REPORT: dg.MetadataValue.md(report)})
        self.context.log_event(seen)

    @contextmanager
    def readable(self, *, loading: bool = True) -> Iterator[None]:
        """Turn an error of the block into one failure that says all, and log the failed checks of the raw asset.

        Args:
            loading: whether the block has to do with the load of the raw asset.

        Raises:
            dagster.Failure: in the place of the error. Its stack is kept only where the error is none that is meant for
                the operator: it would hide what the message says.
        """
        try:
            yield
        except (dg.Failure, dg.DagsterError):
            raise
        except EXPECTED as error:
            raise self._failure(error, loading=loading) from None
        except Exception as error:
            raise self._failure(error, loading=loading) from error

    def _failure(self, error: Exception, *, loading: bool) -> dg.Failure:
        load = self._failed(error)
        for verdict in self._verdicts(load) if loading else ():
            # What `log_event` of an asset's context does; that of an IO manager takes no results of checks.
            dg.DagsterEvent.asset_check_evaluation(self._step, verdict.evaluation())
        return dg.Failure(
            description=load.headline(),
            metadata={REPORT: dg.MetadataValue.md(load.markdown()), "error": type(error).__name__},
            allow_retries=not isinstance(error, UNTIL_MENDED),
        )

    @property
    def _step(self) -> Any:
        context = self.context
        return context.step_context if isinstance(context, dg.OutputContext) else context.get_step_execution_context()

    def _failed(self, error: BaseException) -> FailedLoad:
        if self._load is None or self._load.error is not error:
            slices = self._open_slices(error)
            self._load = FailedLoad(self.table, error, self.run_id, self.partitions, self._tally, slices)
        return self._load

    def _open_slices(self, error: BaseException) -> list[Mapping[str, Any]] | None:
        if isinstance(error, _NO_ADX):
            return None
        try:
            return list(self.adx.client.query(health_kql.open_slices(self.table.name)))
        except _NO_ADX:
            return None

    def _verdicts(self, load: FailedLoad) -> Iterator[Verdict]:
        """`completeness` with the report, and the two that Dagster would else show as failed without a word."""
        tally, error = load.tally or Tally(), load.error
        report = {REPORT: dg.MetadataValue.md(load.markdown())}
        numbers = completeness_numbers(tally) if tally.window else {}
        key = raw_key(self.table)
        yield Verdict(key, COMPLETENESS, passed=False, said=load.headline(), metadata={**report, **numbers})
        if self.table.kind == "event" and tally.window is not None:
            yield late(self.table, tally.complete_until, now=utc_now())
        else:
            yield unknown(self.table, WATERMARK_LAG, error)
        if isinstance(error, _NO_ADX):
            yield unknown(self.table, DEAD_LETTERS, error)
        else:
            yield dead_letter_verdict(self.table, self.adx)


def dead_letter_verdict(table: DefenderTable, adx: AdxResource) -> Verdict:
    """What ADX has of records that were kept out; a failed check where it cannot be asked."""
    try:
        return kept_out(table, count_dead_letters(adx.client, table.name, now=utc_now()))
    except _NO_ADX as error:
        return unknown(table, DEAD_LETTERS, error)
