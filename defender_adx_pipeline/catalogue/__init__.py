"""The Defender tables: names, kinds, time columns, identities and columns, as data and frozen dataclasses.

Here: what Microsoft's schema pages say of each Advanced Hunting table, read from `tables.json` (and from a user's own
`DEFENDER_TABLES_FILE`) and validated on load. Not here: what a particular tenant has (that is `getschema`), and how a
table is read or loaded. Adding a table is adding one record to `tables.json`; assets, KQL and docs derive from it.
"""

from defender_adx_pipeline.catalogue.model import (
    KQL_TYPES,
    MAX_LAG,
    SNAPSHOT_TIME,
    CatalogueError,
    Column,
    DefenderTable,
    Paging,
    TableKind,
)
from defender_adx_pipeline.catalogue.reading import Catalogue, UnknownTableError, load_catalogue

__all__ = [
    "KQL_TYPES",
    "MAX_LAG",
    "SNAPSHOT_TIME",
    "Catalogue",
    "CatalogueError",
    "Column",
    "DefenderTable",
    "Paging",
    "TableKind",
    "UnknownTableError",
    "load_catalogue",
]
