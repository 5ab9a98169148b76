"""Row by row: what Defender has against what ADX has. The demo's proof.

Here: reading both sides independently of the engine and comparing records. Not here: loading, and printing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import orjson
import requests

from defender_adx_pipeline.catalogue import SNAPSHOT_TIME
from defender_adx_pipeline.cli.comparing_typed import TypedResult
from defender_adx_pipeline.migration.connections import Database
from defender_adx_pipeline.migration.readback import records
from defender_adx_pipeline.migration.windows import Window


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table of the demo, in the fields of `demo --json`."""

    table: str
    destination: str
    source_rows: int
    adx_rows: int
    missing: int
    duplicates: int
    """Rows that ADX has more often than Defender, rows that Defender does not have at all among them."""
    watermark: str
    audit_status: str
    calls: int
    typed: TypedResult | None = None
    """The typed table beside the raw one; None where the rows go to a table that feeds none."""

    @property
    def exact(self) -> bool:
        """Whether every row is there once, in the raw table and in the typed one."""
        return _is_exact(self)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SnapshotResult(TableResult):
    """One snapshot table of the demo; `adx_rows` are those that are served of today."""

    published: str | None = None
    """The SnapshotTime of what is served of today; None where nothing is."""

    @property
    def exact(self) -> bool:
        """Whether the state is there, whole and once, and published."""
        return _is_exact(self) and self.published is not None


def _is_exact(result: TableResult) -> bool:
    # A function, since `super()` means another class in a dataclass with slots.
    return (
        result.missing == 0
        and result.duplicates == 0
        and result.audit_status == "Success"
        and (result.typed is None or result.typed.exact)
    )


def source_records(admin_url: str, table: str, window: Window | None) -> Iterator[bytes]:
    """The truth of the local tenant: what it holds of a table, as JSON lines, past its hunting API."""
    bounds = {"table": table}
    if window is not None:
        bounds |= {"start": window.start.isoformat(), "end": window.end.isoformat()}
    with requests.get(f"{admin_url}/source/rows", params=bounds, stream=True, timeout=(5, 120)) as answer:
        answer.raise_for_status()
        yield from (line for line in answer.iter_lines(chunk_size=1 << 20) if line)


def compare_table(
    database: Database, admin_url: str, table: str, destination: str, window: Window
) -> tuple[int, int, int, int]:
    """Rows of both sides, and how many are missing and doubled, by their whole content."""
    time_column = database.catalogue[table].time_column or ""
    truth = _counted(orjson.loads(line) for line in source_records(admin_url, table, window))
    there = _counted(records(database.adx, destination, time_column, window))
    missing = sum((truth - there).values())
    doubled = sum((there - truth).values())
    return sum(truth.values()), sum(there.values()), missing, doubled


def compare_snapshot(
    database: Database, admin_url: str, table: str, destination: str, taken: Window | None
) -> tuple[int, int, int, int]:
    """The same of a snapshot: Defender's state now, and the rows of one moment in ADX."""
    truth = _counted(orjson.loads(line) for line in source_records(admin_url, table, None))
    there: Counter[bytes] = Counter()
    served = 0
    if taken is not None:
        rows = records(database.adx, destination, SNAPSHOT_TIME, taken)
        there = _counted({name: value for name, value in row.items() if name != SNAPSHOT_TIME} for row in rows)
        served = int(database.adx.query(f"Vw{table}Latest() | summarize Rows = count()")[0]["Rows"])
    total = sum(there.values())
    # What the view leaves out or adds counts as if it were not there, or there too often.
    missing = sum((truth - there).values()) + max(0, total - served)
    doubled = sum((there - truth).values()) + max(0, served - total)
    return sum(truth.values()), served, missing, doubled


def _counted(rows: Iterable[dict[str, Any]]) -> Counter[bytes]:
    return Counter(
        blake2b(
            orjson.dumps({k: v for k, v in row.items() if v is not None}, option=orjson.OPT_SORT_KEYS), digest_size=16
        ).digest()
        for row in rows
    )
