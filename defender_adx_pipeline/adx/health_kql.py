"""Statements about how a table stands: records that were kept out, attempts, slices that are open. Pure functions.

Here: what checks ask, and what failure reports give a person to look at. Not here: up to where tables are complete
(`state_kql`, `snapshot_kql`), and what the rows mean (`migration.health`).
"""

from datetime import datetime

from defender_adx_pipeline.adx.state_kql import AUDIT, DEAD_LETTERS, LEDGER_VIEW
from defender_adx_pipeline.quoting import kql_datetime, kql_string


def dead_letters_since(since: datetime, source_table: str | None = None) -> str:
    """How many records were kept out since an instant: `SourceTable`, `Records`; a table without any has no row.

    A record that several runs met counts once.
    """
    one = "" if source_table is None else f" and SourceTable == {kql_string(source_table)}"
    return (
        f"{DEAD_LETTERS}\n| where RecordedAt >= {kql_datetime(since)}{one}"
        "\n| summarize by SourceTable, Identity = tostring(Identity)\n| summarize Records = count() by SourceTable"
    )


def dead_letters(source_table: str) -> str:
    """The records of a table that were kept out, the latest first: what a person looks at."""
    return (
        f"{DEAD_LETTERS}\n| where SourceTable == {kql_string(source_table)} and RecordedAt > ago(30d)"
        "\n| summarize arg_max(RecordedAt, Size, Reason) by Identity = tostring(Identity)"
        "\n| project LastMet = RecordedAt, Identity, Size, Reason\n| order by LastMet desc"
    )


def recent_audits(source_table: str) -> str:
    """How the last ten attempts at a table ended, the latest first."""
    return f"{AUDIT}\n| where TableName == {kql_string(source_table)}\n| top 10 by Timestamp desc"


def open_slices(source_table: str) -> str:
    """The slices of a table that were planned or queued and are not confirmed, as the ledger has them."""
    return (
        f"{LEDGER_VIEW}\n| where SourceTable == {kql_string(source_table)} and Kind == 'Slice'"
        " and State in ('Planned', 'Queued')"
        "\n| project State, WindowStart, WindowEnd, Bucket, ExpectedRows, Attempt, RecordedAt, Reason, RunId"
        "\n| order by WindowStart asc"
    )
