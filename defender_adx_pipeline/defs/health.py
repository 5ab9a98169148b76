"""The sensor `health`: between runs, which tables are late and of which records were kept out. It starts nothing.

A table that nobody runs tells nothing: no run, no result of its checks. So the results of `watermark_lag` and
`dead_letters` of all active tables are found out here, too, by a few queries for all of them together.

Here: which results are told. Not here: the results (`raw_results`) and the numbers (`migration.health`).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from defender_adx_pipeline.defs.checks import WATERMARK_LAG
from defender_adx_pipeline.defs.raw_results import kept_out, late
from defender_adx_pipeline.defs.readable import readable
from defender_adx_pipeline.defs.requests import sensor_status
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.defs.verdicts import Verdict
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.health import read_health

TOLD_AGAIN = timedelta(days=1)
"""How often a verdict that stays the same is told: each telling is an event that Dagster keeps for ever."""

_SHOWN = 5


@dg.sensor(
    minimum_interval_seconds=600,
    default_status=sensor_status(),
    description=(
        "Tells the checks `watermark_lag` and `dead_letters` of every active table between its runs: when a verdict"
        " changes, and once a day. It starts nothing. A table that is switched off is left out."
    ),
)
@readable
def health(context: dg.SensorEvaluationContext, adx: AdxResource) -> dg.SensorResult:
    """One result for each check whose verdict is another than Dagster has, or a day old."""
    now, state = utc_now(), adx.migration_state()
    agendas = [read_agenda(state, adx.catalogue, kind) for kind in ("event", "snapshot")]
    for problem in dict.fromkeys(text for agenda in agendas for text in agenda.problems.values()):
        context.log.error(problem)
    items = [item for agenda in agendas for item in agenda.active()]
    verdicts: list[Verdict] = []
    for one in read_health(adx.client, state, items, now=now):
        verdicts += [late(one.item.table, one.complete_until, now=now), kept_out(one.item.table, one.dead_letters)]
    told = list(_worth_telling(context.instance, verdicts, now))
    return dg.SensorResult(
        asset_events=[verdict.evaluation() for verdict in told],
        skip_reason=dg.SkipReason(f"{_summary(len(items), verdicts)} Checks that were told anew: {len(told)}."),
    )


def _worth_telling(instance: dg.DagsterInstance, verdicts: Sequence[Verdict], now: datetime) -> Iterator[Verdict]:
    """The verdicts that differ from the last result, whoever told that, or that are old."""
    if not verdicts:
        return
    keys = [verdict.key for verdict in verdicts]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    for verdict in verdicts:
        if _is_due(instance, verdict, latest.get(verdict.key), now):
            yield verdict


def _is_due(instance: dg.DagsterInstance, verdict: Verdict, last: Any, now: datetime) -> bool:
    if last is None or last.create_timestamp < (now - TOLD_AGAIN).timestamp():
        return True
    if not isinstance(last.evaluation, dg.AssetCheckEvaluation):
        # A run announced a result. It tells it when it gets there; one that has ended without will not.
        run = instance.get_run_by_id(last.run_id)
        return run is None or run.is_finished
    return bool(last.evaluation.passed != verdict.passed)


def _summary(tables: int, verdicts: Sequence[Verdict]) -> str:
    behind = [
        one.asset.path[-1].removesuffix("Raw") for one in verdicts if one.check == WATERMARK_LAG and not one.passed
    ]
    if not behind:
        return f"None of {tables} active tables is late."
    more = f" and {len(behind) - _SHOWN} more" if len(behind) > _SHOWN else ""
    return f"{len(behind)} of {tables} active tables are late: {', '.join(behind[:_SHOWN])}{more}."
