"""The house's import rules, read from the syntax tree of every module, and the files around the package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.instance.config import PoolGranularity
from dagster._core.run_coordinator import QueuedRunCoordinator

import defender_adx_pipeline
from defender_adx_pipeline.defs.requests import BACKFILL_TAG, HISTORY_TAG

PACKAGE = "defender_adx_pipeline"
ROOT = Path(defender_adx_pipeline.__file__).parent

LEAVES = frozenset({"catalogue", "settings", "quoting", "instants"})
ENGINE = LEAVES | {"defender", "adx", "migration"}
MAY_IMPORT = {
    "__init__": frozenset[str](),
    "catalogue": frozenset[str](),
    "settings": frozenset[str](),
    "quoting": frozenset[str](),
    "instants": frozenset[str](),
    "defender": LEAVES,
    "adx": LEAVES,
    "migration": LEAVES | {"defender", "adx"},
    # Only launch.py, which starts runs of the whole code location.
    "defs": ENGINE | {"definitions"},
    "definitions": ENGINE | {"defs"},
    # It shares only the catalogue with the rest, so that it cannot inherit the client's mistakes.
    "local": frozenset({"catalogue"}),
    "cli": ENGINE | {"local"},
}
"""Which parts of the package a part may import, besides itself. A new part has to be given its place here."""

EXCEPTIONS = {
    # A process of its own that runs the whole code location; nothing imports it.
    "defs/launch.py": frozenset({"definitions"}),
}

MAY_IMPORT_DAGSTER = frozenset({"defs", "definitions"})


def modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if "__pycache__" not in path.parts]


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported, wherever it stands; a relative import starts with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def violations(part: str, source: str, exceptions: frozenset[str] = frozenset()) -> list[str]:
    found = []
    allowed = MAY_IMPORT[part] | {part, "__version__"} | exceptions
    for line, name in imported_names(source):
        top, *rest = name.split(".")
        if name.startswith("."):
            found.append(f"line {line}: relative import of {name}")
        elif top == PACKAGE and rest and rest[0] not in allowed:
            found.append(f"line {line}: {part} may not import {name}")
        elif top.split("_")[0] == "dagster" and part not in MAY_IMPORT_DAGSTER:
            found.append(f"line {line}: {part} may not import {name}: Dagster lives in defs/ only")
    return found


def test_every_module_belongs_to_a_part_that_has_a_place_in_the_import_order() -> None:
    parts = {part_of(path) for path in modules()}
    assert parts <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_its_place_allows(path: Path) -> None:
    exceptions = EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), frozenset())
    assert violations(part_of(path), path.read_text(encoding="utf-8"), exceptions) == []


def test_nothing_imports_a_module_that_has_an_exception() -> None:
    names = {f"{PACKAGE}.{path.removesuffix('.py').replace('/', '.')}" for path in EXCEPTIONS}
    for path in modules():
        imported = {name for _, name in imported_names(path.read_text(encoding="utf-8"))}
        assert not {name for name in imported if any(name == each or name.startswith(f"{each}.") for each in names)}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("defender", "from defender_adx_pipeline.adx.client import AdxClient"),
        ("defender", "from defender_adx_pipeline import adx"),
        ("adx", "import defender_adx_pipeline.defender.client"),
        ("adx", "def late():\n    from defender_adx_pipeline.migration import windows"),
        ("migration", "from defender_adx_pipeline.local.tenant import LocalTenant"),
        ("local", "from defender_adx_pipeline.quoting import kql_name"),
        ("local", "from defender_adx_pipeline.instants import sort_key"),
        ("catalogue", "from defender_adx_pipeline.settings import Settings"),
        ("cli", "from defender_adx_pipeline.defs import assets"),
        ("cli", "from dagster import DagsterInstance"),
        ("migration", "import dagster as dg"),
        ("local", "from dagster_shared.utils import find_free_port"),
        ("adx", "from . import client"),
        ("adx", "from .client import AdxClient"),
    ],
)
def test_a_forbidden_import_is_found(part: str, source: str) -> None:
    assert len(violations(part, source)) == 1


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("defs", "import dagster as dg\nfrom defender_adx_pipeline.migration.windows import Window"),
        ("local", "from defender_adx_pipeline.catalogue import load_catalogue"),
        (
            "adx",
            "from defender_adx_pipeline.adx import client\nfrom defender_adx_pipeline.quoting import kql_name",
        ),
        ("cli", "from defender_adx_pipeline.local.tenant import LocalTenant"),
    ],
)
def test_an_allowed_import_is_let_through(part: str, source: str) -> None:
    assert violations(part, source) == []


def test_dagster_understands_the_instance_settings(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_bytes((ROOT.parent / "dagster.yaml").read_bytes())
    instance = DagsterInstance.from_config(str(tmp_path))
    try:
        pools = instance.get_concurrency_config().pool_config
        assert (pools.pool_granularity, pools.default_pool_limit) == (PoolGranularity.OP, 1)
        runs = instance.get_concurrency_config().run_queue_config
        assert runs is not None
        history = sum(limit["limit"] for limit in runs.tag_concurrency_limits)
        # A tick and a snapshot find a place beside any history.
        assert {limit["key"] for limit in runs.tag_concurrency_limits} == {BACKFILL_TAG, HISTORY_TAG}
        assert runs.max_concurrent_runs >= history + 2
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        assert instance.run_monitoring_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert not instance.telemetry_enabled
    finally:
        instance.dispose()
