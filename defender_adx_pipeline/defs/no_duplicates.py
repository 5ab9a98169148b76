"""The check `no_duplicates` of every Defender table: rows that ADX has more often than Defender, once a day.

It looks at the days to which rows came since the last day's check. Not here: counting (`migration.duplicates`).

It is a check of `defender/<Table>`, for the reason that `values_fit` is: on an asset that is loaded it would be part of
every load. The loads compare counts all the same, so that a row which came twice fails them, too.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from defender_adx_pipeline.adx.duplicates_kql import Rows, some_doubled_rows
from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.typed_schema import existing_columns
from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.defs.checks import LOOKS_BACK, NO_DUPLICATES, no_duplicates_spec
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import known_tables, source_key
from defender_adx_pipeline.defs.verdicts import WARN, Verdict
from defender_adx_pipeline.instants import to_text, utc_now
from defender_adx_pipeline.migration.duplicates import Doubled, find_doubled, windows_to_look_at
from defender_adx_pipeline.migration.windows import Window

_KEYS = {source_key(table): table for table in known_tables().values()}
_SHOWN = 3


@dg.multi_asset_check(
    name=NO_DUPLICATES, specs=[no_duplicates_spec(table) for table in _KEYS.values()], can_subset=True
)
def no_duplicates(
    context: dg.AssetCheckExecutionContext, defender: DefenderResource, adx: AdxResource
) -> Iterator[dg.AssetCheckResult]:
    """A result for each table that is asked for; what cannot be counted is a failed one with its reason."""
    now = utc_now()
    tables = [_KEYS[key.asset_key] for key in sorted(context.selected_asset_check_keys)]
    try:
        existing = existing_columns(adx.client, tables)
        asked = [Rows(table, existing.get(table.name, ())) for table in tables]
        windows = windows_to_look_at(adx.client, asked, now - LOOKS_BACK)
    except AdxError as error:
        for table in tables:
            yield _not_counted(table, error)
        return
    for rows in asked:
        looked_at = windows.get(rows.table.name, ())
        try:
            doubled = list(find_doubled(defender.client, adx.client, rows, looked_at, now=now)) if looked_at else []
        except (AdxError, HuntingError) as error:
            yield _not_counted(rows.table, error)
            continue
        yield duplicates_result(rows, looked_at, doubled)


def duplicates_result(rows: Rows, looked_at: Sequence[Window], doubled: Sequence[Doubled]) -> dg.AssetCheckResult:
    """The result for one table.

    Args:
        rows: the table.
        looked_at: the days, or the snapshot.
        doubled: what was found in them.
    """
    table, ours = rows.table, sum(one.ours for one in doubled)
    metadata: dict[str, dg.MetadataValue] = {
        "duplicates": dg.MetadataValue.int(ours),
        "repeated_by_defender": dg.MetadataValue.int(sum(one.extra - one.ours for one in doubled)),
        "windows": dg.MetadataValue.int(len(looked_at)),
    }
    if not doubled:
        days = ", ".join(map(_day, looked_at)) or "no day, since no row came"
        said = f"No row of {rows.name} is there twice (looked at: {days})."
        return _verdict(table, said, passed=True, metadata=metadata)
    worst = max(doubled, key=lambda one: (one.ours, one.extra))
    query = some_doubled_rows(rows, worst.window.start, worst.window.end)
    metadata["doubled rows (query)"] = dg.MetadataValue.md(f"```kusto\n{query}\n```")
    shown = "; ".join(map(_said, doubled[:_SHOWN])) + (
        f"; and {len(doubled) - _SHOWN} more" if doubled[_SHOWN:] else ""
    )
    if not ours:
        said = f"Defender repeats rows of {table.name}, and {rows.name} has each as often as Defender: {shown}."
        return _verdict(table, said, passed=True, metadata=metadata)
    said = (
        f"{rows.name} has {ours} rows more often than Defender has them: {shown}. Rows that something else loaded look"
        " like this, and rows that Defender has taken back. Nothing was deleted; the query shows them."
    )
    if any(one.in_defender is None for one in doubled):
        said += (
            " Of a window that Defender keeps no longer, nobody can tell whether Defender had repeated the rows itself."
        )
    return _verdict(table, said, passed=False, metadata=metadata)


def _said(one: Doubled) -> str:
    defender = "unknown" if one.in_defender is None else str(one.in_defender)
    return f"{_day(one.window)}: {one.keys} rows are there {one.extra} times too often in ADX, {defender} in Defender"


def _day(window: Window) -> str:
    return to_text(window.start)[:10]


def _not_counted(table: DefenderTable, error: Exception) -> dg.AssetCheckResult:
    said = f"Whether rows of {table.name} are doubled could not be found out: {error}"
    return _verdict(table, said, passed=False)


def _verdict(
    table: DefenderTable, said: str, *, passed: bool, metadata: Mapping[str, dg.MetadataValue] | None = None
) -> dg.AssetCheckResult:
    return Verdict(source_key(table), NO_DUPLICATES, passed, said, WARN, metadata or {}).result()
