"""The scripts of `kql/` as a list of statements, with their placeholders filled in.

Here: finding the files, cutting them into statements, filling in names. Not here: what the generated ones say
(`generated`), and running any of them (`schema`).

A script opens with a comment that says what it does and, in a line `// Run by:`, which role it takes. A statement ends
at a blank line or a comment line outside brackets and ``` blocks; comments inside a statement belong to it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.generated import CONFIGURATION_COLUMNS, GENERATED
from defender_adx_pipeline.adx.kql import literal
from defender_adx_pipeline.adx.typed_policies import SHORTEST_RETENTION_DAYS
from defender_adx_pipeline.adx.typed_scripts import FOLLOWING, TYPED
from defender_adx_pipeline.adx.typed_tables import NO_TABLES, Existing
from defender_adx_pipeline.catalogue import DefenderTable, load_catalogue
from defender_adx_pipeline.quoting import kql_name

MONITORING = "monitoring"
"""Folder of the functions that show how the migration stands; they are over the tables of the others."""

_RUN_BY = re.compile(r"^// Run by: (.+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(Database|ClientId|TenantId|MigrationConfigurationColumns|RetentionDays)\}")
# A GUID, or a domain for the tenant: nothing that could end the quotes around it.
_PRINCIPAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_FENCE = re.compile("```")
# A fence, a literal or a comment, which hide brackets, or a bracket.
_TOKEN = re.compile(r"""```|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|//.*|[(\[{)\]}]""")
_OPEN, _CLOSE = "([{", ")]}"


class SchemaScriptError(AdxError):
    """A script that is missing or cannot be cut into statements, or a name that may not stand in one."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a script, as it is sent."""

    file: str
    line: int
    """Where it begins in the file."""
    text: str
    role: str
    """Which role it takes, in words."""

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Names that are still to be filled in."""
        return tuple(dict.fromkeys(_PLACEHOLDER.findall(self.text)))


@dataclass(frozen=True, slots=True)
class Placeholders:
    """What stands in for the names in braces; what is None stays as it is, for a person to fill in.

    Raises:
        SchemaScriptError: a value has characters that could end the quotes around it.
        InvalidNameError: the database's name could not be one.
    """

    database: str | None = None
    client_id: str | None = None
    tenant_id: str | None = None
    configuration_columns: Mapping[str, str] = field(default_factory=lambda: CONFIGURATION_COLUMNS)
    """Name and type of the columns that MigrationConfiguration has, in its order."""
    retention_days: int | None = None
    """How long rows are kept, in days since they arrived."""

    def __post_init__(self) -> None:
        if self.database is not None:
            kql_name(self.database)
        for name, value in (("AZURE_CLIENT_ID", self.client_id), ("AZURE_TENANT_ID", self.tenant_id)):
            if value is not None and not _PRINCIPAL.fullmatch(value):
                raise SchemaScriptError(f"{name}: {value!r} is neither a GUID nor a domain. Nothing was sent.")
        if self.retention_days is not None and self.retention_days < SHORTEST_RETENTION_DAYS:
            raise SchemaScriptError(
                f"retention of {self.retention_days} days is shorter than {SHORTEST_RETENTION_DAYS}: rows that"
                " Defender and the queue still have would count as missing and be loaded again. Nothing was sent."
            )

    def fill(self, text: str) -> str:
        """The text with every known name in place of its placeholder."""
        values = {
            "Database": self.database,
            "ClientId": self.client_id,
            "TenantId": self.tenant_id,
            "RetentionDays": None if self.retention_days is None else str(self.retention_days),
            "MigrationConfigurationColumns": ", ".join(
                _projected(name, kind) for name, kind in self.configuration_columns.items()
            ),
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]] or match[0], text)


def _projected(name: str, kind: str) -> str:
    """One column of the projection that an append ends with; a column which is not ours is null."""
    if name in CONFIGURATION_COLUMNS:
        return name
    return f"{kql_name(name)} = {literal(None, kind)}"


def kql_folder() -> Path:
    """The folder of the scripts: inside an installed package, or beside the package in a source checkout.

    Raises:
        SchemaScriptError: there is none, so the installation is incomplete.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "kql", package.parent / "kql"):
        if folder.is_dir():
            return folder
    raise SchemaScriptError(f"no kql/ folder in {package} or beside it: install defender_adx_pipeline again.")


def statements(
    placeholders: Placeholders,
    *,
    tables: Iterable[DefenderTable] | None = None,
    typed: bool = True,
    existing: Existing = NO_TABLES,
) -> tuple[Statement, ...]:
    """Every statement of the scripts, in the order in which they are run.

    Args:
        placeholders: what to fill in.
        tables: the Defender tables that the generated scripts are about; the committed scripts when absent.
        typed: whether the scripts about typed tables are among them.
        existing: the columns that typed tables have already, which their scripts then follow.

    Raises:
        SchemaScriptError: a script is missing or cannot be cut into statements.
    """
    texts = script_texts(placeholders, tables=tables, typed=typed, existing=existing)
    return tuple(statement for file, text in texts for statement in read_script(file, text))


def script_texts(
    placeholders: Placeholders,
    *,
    tables: Iterable[DefenderTable] | None = None,
    typed: bool = True,
    existing: Existing = NO_TABLES,
) -> Iterator[tuple[str, str]]:
    """Name and text of every script, in order, with the known names filled in; for a person to read and run.

    Args:
        placeholders: what to fill in.
        tables: as in `statements`.
        typed: as in `statements`.
        existing: as in `statements`.

    Raises:
        SchemaScriptError: the folder of the scripts is missing.
    """
    listed = None if tables is None else tuple(tables)
    folder = kql_folder()
    for path in (*sorted(folder.glob("*.kql")), *sorted((folder / MONITORING).glob("*.kql"))):
        if path.name in TYPED and not typed:
            continue
        name = path.relative_to(folder).as_posix()
        yield name, placeholders.fill(_text(path, name, listed, existing))


def _text(path: Path, name: str, tables: Sequence[DefenderTable] | None, existing: Existing) -> str:
    if existing and name in FOLLOWING:
        return FOLLOWING[name](tuple(load_catalogue().values()) if tables is None else tables, existing)
    write = GENERATED.get(name)
    return path.read_text(encoding="utf-8") if tables is None or write is None else write(tables)


def read_script(file: str, text: str) -> tuple[Statement, ...]:
    """The statements of one script.

    Raises:
        SchemaScriptError: it does not say who runs it, or ends inside brackets or a ``` block.
    """
    cut = tuple(_cut(file, text))
    role = _RUN_BY.search(text)
    if cut and role is None:
        raise SchemaScriptError(f"{file}: no line '// Run by: ...' says which role the script takes.")
    return tuple(Statement(file, line, body, role[1].rstrip(".") if role else "") for line, body in cut)


def _cut(file: str, text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each statement."""
    lines: list[str] = []
    depth, fenced, begun = 0, False, 0
    for number, line in enumerate(text.splitlines(), start=1):
        outside = depth == 0 and not fenced
        if outside and (not line.strip() or line.startswith("//")):
            if lines:
                yield begun, "\n".join(lines)
                lines = []
            continue
        begun = begun if lines else number
        lines.append(line.rstrip())
        depth, fenced = _after(line, depth, fenced=fenced)
    if depth or fenced:
        raise SchemaScriptError(f"{file}: the statement that begins in line {begun} is not closed.")
    if lines:
        yield begun, "\n".join(lines)


def _after(line: str, depth: int, *, fenced: bool) -> tuple[int, bool]:
    """How many brackets are open after a line, and whether a ``` block is."""
    position = 0
    while position < len(line):
        token = (_FENCE if fenced else _TOKEN).search(line, position)
        if token is None:
            break
        position = token.end()
        if token[0] == "```":
            fenced = not fenced
        elif token[0] in _OPEN:
            depth += 1
        elif token[0] in _CLOSE:
            depth -= 1
    return depth, fenced
