"""Update policies: rows that a table gets lead to rows of another, in the same transaction.

Here: which policies a load sets off and running their queries over the new extent alone ("Update policy overview" in
the Kusto docs). Not here: storing policies (`commands_policy`).
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import duckdb

from defender_adx_pipeline.local.adx_schema import Document, Extent, quoted
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.adx_views import Views, visible
from defender_adx_pipeline.local.kql import KqlFailure, translate

_LOG = logging.getLogger(__name__)


class UpdatePolicyError(Exception):
    """A transactional update policy that failed: the ingestion that set it off fails with it.

    `undone` is set where DuckDB has given the transaction up, so that nothing can be kept whatever the policy says.
    """

    def __init__(self, code: str, details: str, *, undone: bool = False) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details
        self.undone = undone


@dataclass(frozen=True, slots=True)
class UpdatePolicies:
    """The store's `after_load`."""

    store: AdxStore
    views: Views

    def targets(self, table: str) -> set[str]:
        """Tables that rows of `table` lead to, over any number of steps."""
        found: set[str] = set()
        waiting = [table]
        while waiting:
            new = {target for target, _ in self._policies(waiting.pop())} - found - {table}
            found |= new
            waiting += new
        return found

    def apply(self, cursor: duckdb.DuckDBPyConnection, extent: Extent) -> None:
        """Run the policies over one new extent, and over what they make.

        Raises:
            UpdatePolicyError: a transactional policy failed.
        """
        for target, policy in self._policies(extent.table):
            try:
                made = self._run(cursor, extent, target, policy)
            except UpdatePolicyError as error:
                if policy.get("IsTransactional") or error.undone:
                    raise
                _LOG.warning("update policy of %s left out rows of %s: %s", target, extent.table, error.code)
                continue
            if made:
                self.apply(cursor, made)

    def _policies(self, source: str) -> Iterator[tuple[str, Document]]:
        for target, name, body in self.store.documents("policy"):
            for policy in body["value"] if name == "update" and isinstance(body["value"], list) else ():
                if policy.get("Source") == source and policy.get("IsEnabled", True) and target in self.store.tables():
                    yield target, policy

    def _run(self, cursor: duckdb.DuckDBPyConnection, extent: Extent, target: str, policy: Document) -> Extent | None:
        select, parameters = self._translate(target, str(policy.get("Query", "")))
        tags = extent.tags if policy.get("PropagateIngestionProperties") else ()
        cursor.execute("USE delta")
        cursor.execute("SET VARIABLE delta_table = $1", [extent.table])
        cursor.execute("SET VARIABLE delta_extent = $1", [extent.extent_id])
        try:
            return self.store.insert_extent(cursor, target, select, parameters, tags=tags)
        except (duckdb.ConversionException, duckdb.InvalidInputException) as error:
            reason = str(error).splitlines()[0]
            raise UpdatePolicyError("UpdatePolicy_IngestionError", reason, undone=True) from error

    def _translate(self, target: str, query: str) -> tuple[str, Any]:
        try:
            prepared = self.views.prepare(query)
            with closing(self.store.cursor("delta")) as cursor:
                schema = self.views.schema(cursor, "delta")
                translation = translate(cursor, prepared.text, functions=prepared.functions, schema=schema)
        except KqlFailure as failure:
            raise UpdatePolicyError("UpdatePolicy_UnknownError", str(failure)) from failure
        shown = [translation.columns[place] for place in visible([name for name, _ in translation.columns], "delta")]
        # By name, type and order ("Update policy overview").
        if tuple(shown) != self.store.table(target).held:
            raise UpdatePolicyError(
                "UpdatePolicy_QuerySchemaDoesNotMatchTableSchema",
                f"The query of the update policy of '{target}' gives {shown}.",
            )
        names = ", ".join(quoted(name) for name, _ in shown)
        return f"SELECT {names} FROM ({translation.sql})", translation.parameters or None  # noqa: S608 - quoted
