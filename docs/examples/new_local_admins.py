"""New local administrators: who logged on as one to a device today, and had not done so in the two weeks before.

A whole code location of its own. It reads `adx/DeviceLogonEvents`, which the pipeline fills, and lets ADX do the work:
fifteen days of logons stay there, and a few rows come back. Run it beside the pipeline, with the same settings:

    dagster dev -f docs/examples/new_local_admins.py

Counted is each pair of a device and an account. "As one" is what Defender says in IsLocalAdmin about a logon that
succeeded. An account is its SID, which stays the same when the account is renamed; rows without a SID go by domain and
name. The accounts that Windows makes for each session (window manager and font driver) are always new and left out.
"""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from defender_adx_pipeline.defs.downstream import AdxIOManager, AdxResource, KqlHandle, adx_asset

LOOK_BACK_DAYS = 14

# The pipeline's asset, as this code location declares it. Dagster shows the two as one, with the lineage across both.
logons = adx_asset("DeviceLogonEvents")

# Unlike the pipeline's, these partitions end yesterday: a day is judged when it is over.
days = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC")

# A partition of this asset needs fifteen partitions of the logons: its own day and those before it.
fifteen_days = dg.TimeWindowPartitionMapping(
    start_offset=-LOOK_BACK_DAYS,
    # The first two weeks of the pipeline have fewer days before them.
    allow_nonexistent_upstream_partitions=True,
)

# What is appended to the query of the fifteen days; `Day` is a parameter, and so can never be taken for KQL.
# An account is new when the first of its logons in all fifteen days is one of the last day.
ADMIN_LOGONS = """
| where ActionType == "LogonSuccess" and IsLocalAdmin == true
| where not(AccountSid startswith "S-1-5-90-") and not(AccountSid startswith "S-1-5-96-")
| extend Account = iff(isempty(AccountSid), tolower(strcat(AccountDomain, "/", AccountName)), AccountSid)
"""
NEW_ONES = (
    ADMIN_LOGONS
    + """
| summarize Logons = count(), arg_min(Timestamp, DeviceName, AccountDomain, AccountName, LogonType, RemoteIP)
    by DeviceId, Account
| where Timestamp >= Day
| order by Timestamp asc
"""
)
DAYS_BEFORE = "| where Timestamp < Day | summarize Days = dcount(bin(Timestamp, 1d))"


@dg.asset(
    # `rows` is the parameter below; what it is annotated with says how the rows arrive. A pandas.DataFrame in its place
    # would bring all columns of all logons of fifteen days into memory.
    ins={"rows": dg.AssetIn(key=logons.key, partition_mapping=fifteen_days)},
    partitions_def=days,
    # A backfill makes a run for each day, since each has a look-back of its own.
    backfill_policy=dg.BackfillPolicy.multi_run(1),
    group_name="detections",
    kinds={"kusto"},
    description="Accounts that logged on to a device as local administrator, for the first time in fifteen days.",
)
def new_local_admins(context: dg.AssetExecutionContext, rows: KqlHandle) -> dg.MaterializeResult[list[dict[str, Any]]]:
    """One row for each device and account: the first logon of the day, and how many there were."""
    day: datetime = context.partition_time_window.start
    found = rows.run(NEW_ONES, {"Day": day})

    # Where the pipeline has moved fewer days so far, accounts are new only because nobody looked before.
    (before,) = rows.run(DAYS_BEFORE, {"Day": day})
    if before["Days"] < LOOK_BACK_DAYS:
        context.log.warning(
            "only %d of the %d days before have logons in ADX: backfill adx/DeviceLogonEvents, then run this day again",
            before["Days"],
            LOOK_BACK_DAYS,
        )
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": len(found),
        "days_before_with_logons": before["Days"],
        "accounts": dg.MetadataValue.md(_listed(found[:20])),
    }
    if rows.web_ui_url is not None:
        metadata["the_logons_in_adx"] = dg.MetadataValue.url(rows.web_ui_url)
    return dg.MaterializeResult(value=found, metadata=metadata)


def _listed(found: list[dict[str, Any]]) -> str:
    """A table for the Dagster UI."""
    columns = ("DeviceName", "AccountDomain", "AccountName", "Logons")
    lines = [f"| {' | '.join(str(one[column]) for column in columns)} |" for one in found]
    return "\n".join([f"| {' | '.join(columns)} |", "|---|---|---|---|", *lines])


job = dg.define_asset_job("new_local_admins_job", selection=[new_local_admins])


# At five in the morning, UTC: the pipeline's daily sweep has then looked for rows that came late.
@dg.schedule(job=job, cron_schedule="0 5 * * *", execution_timezone="UTC")
def new_local_admins_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Judge the day before."""
    yesterday = context.scheduled_execution_time - timedelta(days=1)
    return dg.RunRequest(partition_key=yesterday.date().isoformat())


defs = dg.Definitions(
    assets=[logons, new_local_admins],
    jobs=[job],
    schedules=[new_local_admins_daily],
    # How `rows` is read. What the asset returns goes to Dagster's default IO manager; put your own under "io_manager".
    resources={"adx_io_manager": AdxIOManager(adx=AdxResource())},
)
