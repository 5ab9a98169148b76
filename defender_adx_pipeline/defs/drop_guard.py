"""The check of a snapshot table that its rows did not vanish: `row_count_drop`.

A table that lost its licence, its onboarding or its permission answers with few rows or none, and no error. The
snapshot is published all the same, since it is what Defender has; the check fails. Not here: taking snapshots.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from defender_adx_pipeline.defs.checks import LARGEST_FALL, ROW_COUNT_DROP
from defender_adx_pipeline.defs.verdicts import Verdict
from defender_adx_pipeline.instants import parse_instant, to_text
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.state import StateStore
from defender_adx_pipeline.migration.windows import bin_floor

_DAY = timedelta(days=1)


def drop_result(asset: dg.AssetKey, source_table: str, tally: Tally, state: StateStore) -> dg.AssetCheckResult:
    """The result for the snapshot that an attempt has published.

    It is compared with the last one of an earlier day, so that taking a table again does not make its fall the norm;
    with an earlier one of its own day where there is no other.
    """
    if tally.window is None:
        raise ValueError(f"{source_table}: the attempt has no snapshot")
    taken_at = tally.window.start
    before = state.published_before(source_table, bin_floor(taken_at, _DAY))
    before = before or state.published_before(source_table, taken_at)
    return _result(asset, source_table, tally.queryable_rows, taken_at, before)


def skipped_result(asset: dg.AssetKey) -> dg.AssetCheckResult:
    """The result of an attempt that left the table alone."""
    said = "IsActive is false, so no snapshot was taken and nothing was compared."
    return Verdict(asset, ROW_COUNT_DROP, passed=True, said=said).result()


def _result(
    asset: dg.AssetKey, table: str, rows: int, taken_at: datetime, before: Mapping[str, Any] | None
) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {"rows": rows, "snapshot_time": to_text(taken_at)}
    if before is None:
        said = f"{rows} rows; there is no snapshot before this one to compare it with."
        return Verdict(asset, ROW_COUNT_DROP, passed=True, said=said, metadata=metadata).result()
    earlier, moment = int(before["QueryableRows"] or 0), parse_instant(str(before["WindowStart"]))
    gone = (earlier - rows) / earlier if earlier else 0.0
    metadata |= {
        "rows_before": earlier,
        "snapshot_time_before": to_text(moment),
        "fraction_gone": round(gone, 4),
    }
    # To zero is a fall by all of it.
    passed = gone <= LARGEST_FALL
    said = f"{rows} rows, after {earlier} in the snapshot before."
    if not passed:
        said += (
            " A table that lost its licence, its devices' onboarding or the app's permission looks like this. The"
            f" snapshot is published; {_the_one_before(table, taken_at, moment)}"
        )
    return Verdict(asset, ROW_COUNT_DROP, passed=passed, said=said, metadata=metadata).result()


def _the_one_before(table: str, taken_at: datetime, before: datetime) -> str:
    day = before.date()
    if day == taken_at.date():
        return "of its day it takes the place of the one before, whose rows stay in the raw table by SnapshotTime."
    return f"the one before is still there: Vw{table}At(datetime({day.isoformat()}))."
