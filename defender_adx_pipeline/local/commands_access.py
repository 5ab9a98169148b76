"""Commands on principals: `.add`, `.drop` and the list of who has which role.

Here: role assignments of the database and its tables. Not here: checking them; the stand-in lets every principal with a
valid token in, since the roles that the pipeline needs are Azure's to enforce.
"""

import re
import uuid

from defender_adx_pipeline.local.adx_schema import Document
from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.frames import KustoFault, Table

PRINCIPAL_COLUMNS = (
    ("Role", "string"),
    ("PrincipalType", "string"),
    ("PrincipalDisplayName", "string"),
    ("PrincipalObjectId", "string"),
    ("PrincipalFQN", "string"),
    ("Notes", "string"),
)
_DATABASE_ROLES = {
    "admins": "Admin",
    "ingestors": "Ingestor",
    "monitors": "Monitor",
    "unrestrictedviewers": "UnrestrictedViewer",
    "users": "User",
    "viewers": "Viewer",
}
_TABLE_ROLES = {"admins": "Admin", "ingestors": "Ingestor"}
_FQN = re.compile(r"(aadapp|aaduser|aadgroup|upn)=([^;\s]+)(?:;([^;\s]+))?", re.IGNORECASE)
_KINDS = {"aadapp": "AAD Application", "aaduser": "AAD User", "upn": "AAD User", "aadgroup": "AAD Group"}


def add(context: Context, reader: Reader) -> Table:
    """`.add database D ingestors ('aadapp=<id>;<tenant>') 'notes'` and `.add table T admins (...)`."""
    scope, role, principals = _assignment(context, reader)
    notes = "" if reader.done() or reader.text[reader.at] == ";" else reader.string()
    for principal in principals:
        body: Document = {"role": role, "principal": principal, "notes": notes}
        context.store.put("principal", scope, f"{role}|{principal.casefold()}", body)
    return principals_of(context, scope)


def drop(context: Context, reader: Reader) -> Table:
    """`.drop database D ingestors ('aadapp=<id>;<tenant>')`."""
    scope, role, principals = _assignment(context, reader)
    for principal in principals:
        context.store.delete("principal", scope, f"{role}|{principal.casefold()}")
    return principals_of(context, scope)


def principals_of(context: Context, scope: str) -> Table:
    """Who has which role on the database (scope '') or on a table, the caller as administrator first."""
    what = f"Table {scope}" if scope else f"Database {context.store.database}"
    rows = [_row(f"{what} {body['role']}", body["principal"], body["notes"]) for body in _bodies(context, scope)]
    if not scope:
        rows.insert(0, _row("AllDatabasesAdmin", context.principal, ""))
    return Table(PRINCIPAL_COLUMNS, rows)


def _bodies(context: Context, scope: str) -> list[Document]:
    return [body for _, _, body in context.store.documents("principal", scope)]


def _assignment(context: Context, reader: Reader) -> tuple[str, str, list[str]]:
    if reader.take("database"):
        context.need_database(reader.name())
        scope, roles = "", _DATABASE_ROLES
    else:
        reader.need("table")
        scope, roles = context.store.table(reader.name()).name, _TABLE_ROLES
    if reader.word() not in roles:
        reader.fail(f"a role ({', '.join(roles)})")
    role = roles[reader.any_word()]
    principals = reader.strings()
    for principal in principals:
        if not _FQN.fullmatch(principal):
            raise KustoFault(
                f"Principal '{principal}' is not a fully qualified name such as 'aadapp=<client id>;<tenant id>'.",
                code="BadRequest_InvalidPrincipal",
            )
    return scope, role, principals


def _row(role: str, principal: str, notes: str) -> tuple[str, ...]:
    match = _FQN.fullmatch(principal)
    kind, id_ = (_KINDS[match[1].lower()], match[2]) if match else ("AAD Application", principal)
    return (role, kind, id_, str(uuid.uuid5(uuid.NAMESPACE_OID, id_)), principal, notes)
