"""What the monitoring functions of the database say, for `status`: lag, failures, rows per day, hunting calls.

Here: asking them and what a table's share of the answers is. Not here: what they compute (`kql/monitoring/`), and
showing it (`status_table`). A database from before the functions has no figures, which is None and no error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from defender_adx_pipeline.adx import monitoring_kql
from defender_adx_pipeline.adx.errors import MissingObjectError
from defender_adx_pipeline.migration.connections import Database

FAILURE_DAYS = 7
"""Over how many days `status` counts failures."""

NO_FIGURES = (
    "The database lacks the monitoring functions (MonitorLag and its neighbours): lag is told by the watermark alone,"
    " and failures, rows per day and hunting calls are not known. Run `defender-adx bootstrap` with an identity that is"
    " Database Admin; it adds what is missing and resets nothing."
)


@dataclass(frozen=True, slots=True)
class Day:
    """What came in on one UTC day."""

    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """Hunting calls of the pipeline on the UTC day of today, as the ledger counts them."""

    calls: int
    waited_seconds: float
    busiest_hour: int
    """Calls of the hour that had most."""
    calls_per_hour: int
    """What the tenant has, by the settings."""

    @property
    def share(self) -> float:
        """Of the calls that a day has."""
        return self.calls / (24 * self.calls_per_hour)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "calls_today": self.calls,
            "calls_share": round(self.share, 4),
            "calls_busiest_hour": self.busiest_hour,
            "calls_per_hour": self.calls_per_hour,
            "quota_wait_seconds_today": self.waited_seconds,
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """The answers of the functions, by source table."""

    days: tuple[str, ...]
    """The UTC days that rows are counted for, YYYY-MM-DD, the last is today."""
    lag: Mapping[str, Mapping[str, Any]]
    """Rows of `MonitorLag`."""
    failures: Mapping[str, int]
    """Failed attempts of the last FAILURE_DAYS days."""
    loaded: Mapping[str, Mapping[str, Day]] = field(repr=False)
    """What came in, by table and day."""
    quota: Quota

    def rows_per_day(self, table: str) -> list[int]:
        """Rows that came in on each of the days."""
        by_day = self.loaded.get(table, {})
        return [by_day.get(day, Day()).rows for day in self.days]

    def today(self, table: str) -> Day:
        """What came in today."""
        return self.loaded.get(table, {}).get(self.days[-1], Day())

    def total(self, *, days: tuple[str, ...]) -> Day:
        """What came in on some days, all tables."""
        found = [by_day[day] for by_day in self.loaded.values() for day in days if day in by_day]
        return Day(sum(day.rows for day in found), sum(day.bytes for day in found))

    def as_dict(self) -> dict[str, Any]:
        """The totals, for JSON."""
        everything, today = self.total(days=self.days), self.total(days=self.days[-1:])
        return {
            "days": len(self.days),
            "rows": everything.rows,
            "bytes": everything.bytes,
            "rows_today": today.rows,
            "bytes_today": today.bytes,
            **self.quota.as_dict(),
        }


def read_figures(database: Database, *, days: int, now: datetime) -> Figures | None:
    """What the monitoring functions say, or None where the database lacks them.

    Args:
        database: the database.
        days: over how many days rows are counted, today among them.
        now: the present.

    Raises:
        AdxError: the database could not be asked.
    """
    adx, per_hour = database.adx, database.settings.defender_calls_per_hour
    try:
        lag = {str(row["SourceTable"]): row for row in adx.query(monitoring_kql.lag())}
        failed = adx.query(monitoring_kql.failures(FAILURE_DAYS))
        loaded = adx.query(monitoring_kql.rows_per_day(days))
        asked = adx.query(monitoring_kql.quota(1, per_hour))
    except MissingObjectError:
        return None
    failures: dict[str, int] = {}
    for row in failed:
        failures[row["SourceTable"]] = failures.get(row["SourceTable"], 0) + int(row["Failures"])
    by_table: dict[str, dict[str, Day]] = {}
    for row in loaded:
        by_table.setdefault(row["SourceTable"], {})[str(row["Day"])[:10]] = Day(
            int(row["Rows"]), int(row["Bytes"] or 0)
        )
    today = now.astimezone(UTC).date()
    return Figures(
        days=tuple((today - timedelta(days=back)).isoformat() for back in reversed(range(days))),
        lag=lag,
        failures=failures,
        loaded=by_table,
        quota=_quota(asked, per_hour),
    )


def _quota(rows: list[dict[str, Any]], per_hour: int) -> Quota:
    by_hour: dict[str, int] = {}
    for row in rows:
        by_hour[row["Hour"]] = by_hour.get(row["Hour"], 0) + int(row["Calls"])
    waited = sum(float(row["QuotaWaitSeconds"] or 0) for row in rows)
    return Quota(sum(by_hour.values()), round(waited, 1), max(by_hour.values(), default=0), per_hour)
