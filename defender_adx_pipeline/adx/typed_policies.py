"""Policies of typed tables: how long they are kept, what is on fast disks, what has restricted access.

Here: the text of those commands. Not here: update policies (`typed_tables`), and the policies of raw tables that the
pipeline itself depends on (`21_raw_table_policies.kql`).
"""

from collections.abc import Iterable, Sequence

import orjson

from defender_adx_pipeline.adx.typed_tables import plain, typed_table_name
from defender_adx_pipeline.catalogue import DefenderTable

HOT_DAYS = 31
"""Defender's own 30 days, and today."""

RESTRICTED_CATEGORIES = frozenset({"data security"})
"""Categories whose tables Defender itself shows to few: insider risk and data loss, with the names of employees."""

SHORTEST_RETENTION_DAYS = 46
"""Longer than the 45 days for which tags are kept: until then a slice may come again."""


def restricted(tables: Iterable[DefenderTable]) -> tuple[DefenderTable, ...]:
    """The tables that only principals with the role `unrestrictedviewers` are to read."""
    return tuple(table for table in tables if table.category in RESTRICTED_CATEGORIES)


def retention(tables: Sequence[DefenderTable]) -> str:
    """The command that sets how long raw and typed tables are kept; its days are a placeholder."""
    policy = {"SoftDeletePeriod": "{RetentionDays}.00:00:00", "Recoverability": "Enabled"}
    names = [name for table in tables for name in (table.raw_table, typed_table_name(table))]
    return f".alter tables (\n{_listed(names)}\n) policy retention ```{orjson.dumps(policy).decode()}```\n"


def caching(tables: Sequence[DefenderTable]) -> str:
    """The command that sets how much of the typed tables is on fast disks."""
    return f".alter tables (\n{_listed(map(typed_table_name, tables))}\n) policy caching hot = {HOT_DAYS}d\n"


def tag_retention(table: DefenderTable) -> str:
    """The command that lets the tags of a typed table go when those of its raw table do."""
    policy = [{"TagPrefix": "ingest-by:", "RetentionPeriod": f"{SHORTEST_RETENTION_DAYS - 1}.00:00:00"}]
    name = plain(typed_table_name(table))
    return f".alter table {name} policy extent_tags_retention ```{orjson.dumps(policy).decode()}```\n"


def restricted_view_access(tables: Sequence[DefenderTable]) -> str:
    """The command that restricts raw and typed tables."""
    names = [name for table in tables for name in (table.raw_table, typed_table_name(table))]
    return f".alter tables (\n{_listed(names)}\n) policy restricted_view_access true\n"


def _listed(names: Iterable[str]) -> str:
    return ",\n".join(f"    {plain(name)}" for name in names)
