"""What is found out about a raw table: the verdicts of `completeness`, `watermark_lag` and `dead_letters`.

Here: numbers turned into verdicts, for the step that loads and for the sensor `health` alike. Not here: the specs
(`checks`), and the report of a failure (`failure_report`).
"""

from datetime import datetime, timedelta

import dagster as dg

from defender_adx_pipeline.adx.health_kql import dead_letters
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defs.checks import COMPLETENESS, DEAD_LETTERS, WATERMARK_LAG, hours
from defender_adx_pipeline.defs.tables import raw_key
from defender_adx_pipeline.defs.verdicts import WARN, Verdict
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.health import lag_of


def complete(table: DefenderTable, tally: Tally) -> Verdict:
    """`completeness` of an attempt that succeeded: it raises wherever the counts do not agree."""
    said = (
        f"{tally.window}: Defender has {tally.expected_rows} rows and {table.raw_table} has {tally.queryable_rows};"
        f" {tally.received_rows} of them were read by this run."
    )
    if tally.expected_rows != tally.queryable_rows:
        said += " The two differ by rows that came or went in Defender between the counts; the notes tell which."
    return Verdict(raw_key(table), COMPLETENESS, passed=True, said=said, metadata=completeness_numbers(tally))


def completeness_numbers(tally: Tally) -> dict[str, dg.MetadataValue]:
    """The three numbers, under the names that a materialization has them."""
    return {
        "rows_expected": dg.MetadataValue.int(tally.expected_rows),
        "rows_received": dg.MetadataValue.int(tally.received_rows),
        "rows_queryable": dg.MetadataValue.int(tally.queryable_rows),
        "window": dg.MetadataValue.text(str(tally.window) if tally.window else "none"),
    }


def late(table: DefenderTable, complete_until: datetime | None, *, now: datetime) -> Verdict:
    """`watermark_lag`: how far behind now the table is complete, against what is allowed."""
    behind, allowed = lag_of(complete_until, now), table.allowed_lag
    limit = {"allowed_seconds": dg.MetadataValue.float(allowed.total_seconds())}
    if behind is None or complete_until is None:
        nothing = (
            f"No snapshot of {table.name} is published yet. Run today's partition."
            if table.kind == "snapshot"
            else f"{table.name} is not complete from as far back as Defender keeps: nothing was loaded yet, or days"
            f" are missing. Run the partitions that are not materialized, or `defender-adx sync {table.name}`."
        )
        return Verdict(raw_key(table), WATERMARK_LAG, passed=False, said=nothing, metadata=limit)
    passed = behind <= allowed
    what = "The last published snapshot is" if table.kind == "snapshot" else "It is complete up to"
    said = (
        f"{what} {to_text(complete_until)[:19]}Z, {readable(behind)} ago; {hours(allowed)} h are allowed"
        f"{'' if passed else ', so it is late'}."
    )
    if not passed:
        said += (
            " See whether its last run failed, waits in the queue, or was not started: the schedule may be off, or the"
            " daemon down."
        )
    metadata = {
        "lag_seconds": dg.MetadataValue.float(round(behind.total_seconds(), 1)),
        **limit,
        "complete_until": dg.MetadataValue.timestamp(complete_until),
    }
    return Verdict(raw_key(table), WATERMARK_LAG, passed=passed, said=said, metadata=metadata)


def kept_out(table: DefenderTable, records: int) -> Verdict:
    """`dead_letters`: records that ADX cannot hold, of the last 30 days."""
    metadata: dict[str, dg.MetadataValue] = {"dead_letters": dg.MetadataValue.int(records)}
    if not records:
        said = f"No record of {table.name} was kept out within the last 30 days."
        return Verdict(raw_key(table), DEAD_LETTERS, passed=True, said=said, severity=WARN, metadata=metadata)
    metadata["records (query)"] = dg.MetadataValue.md(f"```kusto\n{dead_letters(table.name)}\n```")
    said = (
        f"{records} records of {table.name} of the last 30 days are not in ADX, whose dynamic column does not hold"
        " them; every other row is. MigrationDeadLetter has the columns that find each in Defender, where it stays"
        " until it is 30 days old: look at it there, or export it, if it matters."
    )
    return Verdict(raw_key(table), DEAD_LETTERS, passed=False, said=said, severity=WARN, metadata=metadata)


def unknown(table: DefenderTable, check: str, error: BaseException) -> Verdict:
    """A check that could not be found out."""
    said = f"It could not be found out: {error}"
    return Verdict(raw_key(table), check, passed=False, said=said, severity=WARN)


def readable(span: timedelta) -> str:
    """A span in the unit that a person would take: `12 min`, `5.5 h`, `3.2 days`."""
    minutes = span / timedelta(minutes=1)
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
