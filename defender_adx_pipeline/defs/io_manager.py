"""The IO manager: loads an extraction into ADX, and gives the rows of a partition to a downstream asset.

Here: Dagster's side of it. Not here: loading (`migration`), and what a downstream asset gets (`inputs`).
"""

from typing import TYPE_CHECKING

import dagster as dg

from defender_adx_pipeline.defs.failing import Attempt
from defender_adx_pipeline.defs.handles import KqlHandle
from defender_adx_pipeline.defs.inputs import load_rows
from defender_adx_pipeline.defs.partitions import whole_days
from defender_adx_pipeline.defs.reporting import COLUMNS, RAW_SCHEMA, numbers, rows_query, web_ui_link
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.migration.audit import Tally, audit_id
from defender_adx_pipeline.migration.extraction import Extraction
from defender_adx_pipeline.migration.loading import Progress

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class AdxIOManager(dg.ConfigurableIOManager):
    """Loads what raw assets return, and gives the rows of partitions to downstream assets, as `downstream` tells."""

    adx: dg.ResourceDependency[AdxResource]

    def handle_output(self, context: dg.OutputContext, obj: Extraction) -> None:
        """Read the planned slices, load them, confirm them, and record the result.

        Raises:
            dagster.Failure: what is missing, with the report; the audit row, the observation and the check say it, too.
        """
        if not isinstance(obj, Extraction):
            raise dg.DagsterInvariantViolationError(
                f"{context.asset_key.to_user_string()}: AdxIOManager takes an Extraction, as"
                f" `migration.Migration.extract` makes it, not a {type(obj).__name__}"
            )
        keys, step = list(context.asset_partition_keys), context.step_context
        attempt = Attempt(context, obj.plan.configuration.table, self.adx, keys, step.run_id)
        with attempt.readable():
            self._load(context, obj, attempt)

    def load_input(self, context: dg.InputContext) -> "KqlHandle | pd.DataFrame | pa.Table":
        """The rows of the partitions that the downstream asset asks for, as what its parameter is annotated with.

        Raises:
            As `inputs.load_rows`.
        """
        return load_rows(context, self.adx)

    def _load(self, context: dg.OutputContext, obj: Extraction, attempt: Attempt) -> None:
        def tell(progress: Progress) -> None:
            context.log.debug(
                "%s: %s %d rows, %d slices", progress.table, progress.event, progress.rows, progress.slices
            )

        plan = obj.plan
        context.log.info(
            "%s: Defender has %d rows, %s; %d slices to load, %d of them from earlier attempts",
            plan.snapshot or f"{plan.table} {plan.window}",
            plan.counts.source_rows,
            "in one state" if plan.snapshot else f"ADX has {plan.counts.destination_rows}",
            len(plan.slices),
            len(plan.resumed),
        )
        name = audit_id(attempt.run_id, plan.table, context.step_context.previous_attempt_count + 1)
        tally = self.adx.migration(obj.client, attempt.observe, name).load(obj, tell)
        for note in tally.notes:
            context.log.warning("%s: %s", plan.table, note)
        self._report(context, obj, tally, list(attempt.keys))

    def _report(self, context: dg.OutputContext, extraction: Extraction, tally: Tally, keys: list[str]) -> None:
        settings, configuration = self.adx.settings, extraction.plan.configuration
        link = web_ui_link(str(settings.adx_cluster_uri), settings.adx_database, rows_query(extraction.plan, tally))
        context.add_output_metadata(
            {
                **numbers(tally),
                "dagster/table_name": f"{settings.adx_database}.{configuration.destination_table}",
                **({} if link is None else {"adx_web_ui": dg.MetadataValue.url(link)}),
                "run_partitions": len(keys),
            }
        )
        counted = keys if extraction.plan.snapshot is not None else whole_days(keys, extraction.plan.window)
        for key in counted:
            rows = {"dagster/partition_row_count": dg.MetadataValue.int(tally.rows_by_day.get(key, 0))}
            context.step_context.add_asset_metadata(rows, context.asset_key, key)
        # On one partition of the run alone, or a run over thirty days would repeat it as often in the event log.
        schema = {COLUMNS: RAW_SCHEMA}
        context.step_context.add_asset_metadata(schema, context.asset_key, keys[-1])
