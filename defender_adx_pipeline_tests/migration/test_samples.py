"""Records that somebody exported from Advanced Hunting arrive in ADX with every value intact, field by field.

What is expected is worked out here from the file itself: suffixes of a union's columns off, empty columns left out,
times some whole days later. The records are made up; DEFENDER_ADX_SAMPLES names a file of real ones to take as well.
"""

import os
import re
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.instants import sort_key
from defender_adx_pipeline_tests.conftest import OpenTenant, Statements
from defender_adx_pipeline_tests.local.test_samples import UNION
from defender_adx_pipeline_tests.migration.world import World, settings_of

pytestmark = pytest.mark.long

REAL = os.environ.get("DEFENDER_ADX_SAMPLES")
CATALOGUE = load_catalogue()
TABLES = ("DeviceEvents", "CloudAppEvents", "IdentityDirectoryEvents")
_SUFFIX = re.compile(r"_(?:string|long|dynamic|int|bool|datetime|real|guid)$")


@pytest.fixture(params=["made up", "real"])
def sample_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "real":
        if REAL is None:
            pytest.skip("DEFENDER_ADX_SAMPLES names no file of real records")
        return Path(REAL)
    path = tmp_path / "union.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(record) for record in UNION))
    return path


def fields(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of an exported record that say something, under their hunting names; times stay as they are."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name.endswith("@odata.type") or value is None or value == "":
            continue
        found[_SUFFIX.sub("", name)] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if not name.endswith("@odata.type")}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def same(expected: Any, loaded: Any, kind: str, days: int) -> bool:
    if kind == "datetime":
        moved = (date.fromisoformat(expected[:10]) + timedelta(days=days)).isoformat() + expected[10:]
        return sort_key(moved) == sort_key(loaded)
    if kind == "bool":
        return bool(expected) is loaded
    return bool(expected == loaded and type(expected) is type(loaded))


def test_every_record_arrives_with_every_value_intact(
    open_tenant: OpenTenant, statements: Statements, sample_file: Path
) -> None:
    expected = [fields(orjson.loads(line)) for line in sample_file.read_bytes().splitlines() if line.strip()]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        tenant = stack.enter_context(
            open_tenant(scale=0, samples=sample_file, quota_clock_scale=2000.0, batching_delay=0.05)
        )
        world = World(tenant, settings_of(tenant, patch), stack)
        world.bootstrap()
        loaded = []
        for table in TABLES:
            # Samples bring columns of their own: statements about them are to bind.
            columns = {column.name: column.type for column in tenant.source.columns(table)}
            statements.add_table("defender", table, columns)
            world.sync(table)
            loaded += [(table, orjson.loads(row)) for row in world.loaded(table).elements()]
    assert len(loaded) == len(expected)
    newest = max(record["Timestamp"][:10] for record in expected)
    days = (date.fromisoformat(max(row["Timestamp"][:10] for _, row in loaded)) - date.fromisoformat(newest)).days
    for record in expected:
        (match,) = [(table, row) for table, row in loaded if str(row.get("ReportId")) == str(record["ReportId"])]
        table, row = match
        for name, value in record.items():
            kind = CATALOGUE[table].column_type(name) or ""
            if value == {} and kind not in ("dynamic", ""):
                assert name not in row  # the null of a value type
                continue
            assert same(value, row[name], kind, days), (table, name, value, row[name])
        extra = {name for name, value in row.items() if value != ""} - record.keys()
        assert extra == set()
