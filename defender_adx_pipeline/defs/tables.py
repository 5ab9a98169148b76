"""Which tables the code location has, and the keys of their assets. Not here: the assets (`assets`)."""

from collections.abc import Iterable
from datetime import timedelta

import dagster as dg

from defender_adx_pipeline.catalogue import Catalogue, CatalogueError, DefenderTable, load_catalogue
from defender_adx_pipeline.settings import Settings, SettingsError, load_settings


def known_tables() -> Catalogue:
    """The tables of the settings.

    A bad setting must not keep the code location from loading, where nobody could read the error: the shipped tables
    are taken, and every run says what is wrong.
    """
    try:
        return load_catalogue(load_settings().defender_tables_file)
    except (SettingsError, CatalogueError):
        return load_catalogue()


def source_key(table: DefenderTable) -> dg.AssetKey:
    """`defender/<Table>`."""
    return dg.AssetKey(["defender", table.name])


def raw_key(table: DefenderTable) -> dg.AssetKey:
    """`adx/<Table>Raw`. The key follows the source table; where the rows go is the row's DestinationTable."""
    return dg.AssetKey(["adx", table.raw_table])


def typed_key(table: DefenderTable) -> dg.AssetKey:
    """`adx/<Table>`: the typed rows, of a snapshot table those of all of its snapshots."""
    return dg.AssetKey(["adx", table.name])


def known_database() -> str:
    """The database of the settings, or its default where these are bad, as in `known_tables`.

    Tables are shown with its name: Dagster takes assets with one table name for the same table, and a typed table has
    the name of Defender's.
    """
    try:
        return load_settings().adx_database
    except SettingsError:
        return str(Settings.model_fields["adx_database"].default)


def loaded_keys(tables: Iterable[DefenderTable]) -> list[dg.AssetKey]:
    """What a load of some tables brings up to date: the raw and the typed asset of each."""
    return [key for table in tables for key in (raw_key(table), typed_key(table))]


FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=36), warn_window=timedelta(hours=27))
"""Of every asset that is loaded. A quiet table gets no run from the tick, and one from the sweep each day; a snapshot
is taken once a day. Dagster looks at the last materialization alone: a backfill of an old day makes the asset fresh,
and one that is loaded and still behind looks fresh, too. That is what the check `watermark_lag` sees."""


def table_tags(table: DefenderTable) -> dict[str, str]:
    """What assets can be selected by: `tag:"defender_adx/kind"="snapshot"`."""
    return {"defender_adx/kind": table.kind, "defender_adx/category": table.group}
