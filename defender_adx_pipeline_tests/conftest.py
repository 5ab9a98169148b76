"""Fixtures that several folders share: a local tenant on loopback, and the record of every statement sent to it.

Here: what more than one folder of tests needs. Not here: fixtures of one module, which stand beside its tests.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from defender_adx_pipeline.local.tenant import LocalTenant

# How long an example takes is the machine's business; timings are measured in benchmarks/ and asserted nowhere.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

STATEMENTS_VARIABLE = "DEFENDER_ADX_STATEMENTS"
"""Names the file that receives the statements of this run as JSON lines; `tools/kql_check.js` reads it."""

SIDES = {"hunting": "defender", "engine": "adx", "ingest": "adx"}
"""Services of the local tenant that take KQL, and the side whose schema the KQL must bind to."""

OpenTenant = Callable[..., "AbstractContextManager[LocalTenant]"]


class Statements:
    """Every distinct statement that the tests sent, and the tables that a test added to the schema."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, side: str, text: str) -> None:
        """Record one query or command; `side` is `defender` or `adx`."""
        kind = "command" if text.lstrip().startswith(".") else "query"
        self._add({"side": side, "kind": kind, "text": text.strip()})

    def add_table(self, side: str, name: str, columns: Mapping[str, str]) -> None:
        """Record a table that exists for one test only, so that statements about it can bind."""
        self._add({"side": side, "kind": "table", "name": name, "columns": dict(columns)})

    def add_database(self, name: str) -> None:
        """Record the name of an ADX database, so that commands which name it can bind."""
        self._add({"side": "adx", "kind": "database", "name": name})

    def add_tenant(self, tenant: "LocalTenant") -> None:
        """Record what a tenant's request log holds."""
        for service, side in SIDES.items():
            for request in tenant.log.entries(service=service):
                if request.statement:
                    self.add(side, request.statement)

    def append_to(self, path: Path) -> None:
        """Append the record to a file of JSON lines."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # In one write: several processes of tests may end at the same moment.
        with path.open("ab", buffering=0) as file:
            file.write("".join(line + "\n" for line in self._lines).encode())

    def _add(self, line: Mapping[str, Any]) -> None:
        self._lines[json.dumps(line, ensure_ascii=False)] = None


@pytest.fixture(scope="session")
def statements() -> Iterator[Statements]:
    """The record of this session, written at its end when `DEFENDER_ADX_STATEMENTS` names a file."""
    record = Statements()
    yield record
    if target := os.environ.get(STATEMENTS_VARIABLE):
        record.append_to(Path(target))


@pytest.fixture(scope="session")
def open_tenant(tmp_path_factory: pytest.TempPathFactory, statements: Statements) -> OpenTenant:
    """A factory of local tenants: `with open_tenant(tables=["DeviceInfo"], scale=0.1) as tenant: ...`.

    Takes what `LocalTenant` takes; `home` is a new temporary folder unless given. The tenant is started, and its
    statements are recorded before it stops. Session-scoped, so that fixtures of any scope can hold a tenant open.
    """

    @contextmanager
    def opened(home: Path | None = None, **options: Any) -> Iterator["LocalTenant"]:
        # Imported here, so that tests of the leaves run without the `local` extra.
        from defender_adx_pipeline.local.tenant import LocalTenant  # noqa: PLC0415

        for table in (options.get("catalogue") or {}).values():
            columns = {column.name: column.type for column in (*table.columns, *table.undocumented_columns)}
            statements.add_table("defender", table.name, columns)
        with LocalTenant(home or tmp_path_factory.mktemp("tenant"), **options) as tenant:
            statements.add_database(tenant.environment()["ADX_DATABASE"])
            # What an earlier tenant of this home created, perhaps in another process.
            for name, stored in tenant.adx.tables().items():
                statements.add_table("adx", name, dict(stored.columns))
            try:
                yield tenant
            finally:
                statements.add_tenant(tenant)

    return opened
