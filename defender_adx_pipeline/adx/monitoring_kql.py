"""The functions of `kql/monitoring/` as the program asks for them, and the dashboard file beside them. Pure functions.

Here: their names, the queries that `status` runs, and the dashboard with cluster and database filled in. Not here: what
the functions compute, which stands in `kql/monitoring/`.
"""

import re
from pathlib import Path
from typing import Any

import orjson

from defender_adx_pipeline.adx.scripts import MONITORING, SchemaScriptError, kql_folder
from defender_adx_pipeline.quoting import kql_long, kql_name

LAG, GAPS, COVERAGE, TABLES = "MonitorLag", "MonitorGaps", "MonitorCoverage", "MonitorTables"
ROWS, COST, FAILURES, QUOTA = "MonitorRowsPerDay", "MonitorCost", "MonitorFailures", "MonitorQuota"
DEAD_LETTERS, SNAPSHOTS, WATERMARKS = "MonitorDeadLetters", "MonitorSnapshots", "MonitorWatermarks"

FUNCTIONS = (TABLES, COVERAGE, LAG, GAPS, WATERMARKS, SNAPSHOTS, ROWS, COST, FAILURES, DEAD_LETTERS, QUOTA)
"""All of them, which bootstrap makes."""

DASHBOARD = "dashboard.json"

_CLUSTER = re.compile(r"https?://[A-Za-z0-9.:-]+/?")


def lag() -> str:
    """How far each table is: `SourceTable`, `State`, `LagMinutes`, `CompleteUntil` and more, one row each."""
    return f"{LAG}()"


def rows_per_day(days: int) -> str:
    """What came in: `Day`, `SourceTable`, `Rows`, `Bytes`, `Slices`, today and the days before it."""
    return f"{ROWS}({kql_long(days)})"


def failures(days: int) -> str:
    """Failed attempts by table and error: `SourceTable`, `Error`, `Failures`, `LastFailure`, `IsFailing` and more."""
    return f"{FAILURES}({kql_long(days)})"


def quota(days: int, calls_per_hour: int) -> str:
    """Hunting calls: `Hour`, `SourceTable`, `Calls`, `QuotaWaitSeconds`, `ShareOfQuota`.

    Args:
        days: today and the days before it.
        calls_per_hour: what the tenant has.
    """
    return f"{QUOTA}({kql_long(days)}, {kql_long(calls_per_hour)})"


def dashboard_file() -> Path:
    """The dashboard, with `{ClusterUri}` and `{Database}` where its data source names them.

    Raises:
        SchemaScriptError: it is not there, so the installation is incomplete.
    """
    path = kql_folder() / MONITORING / DASHBOARD
    if not path.is_file():
        raise SchemaScriptError(f"no {MONITORING}/{DASHBOARD} in {path.parent.parent}: install the package again.")
    return path


def dashboard_queries() -> dict[str, str]:
    """The query of each tile of the dashboard by the tile's title, with what the dashboard defines before it."""
    found = orjson.loads(dashboard_file().read_bytes())
    texts = {query["id"]: query["text"] for query in found["queries"]}
    return {
        tile["title"]: f"let _startTime = ago(14d);\nlet _endTime = now();\n{texts[tile['queryRef']['queryId']]}"
        for tile in found["tiles"]
        if "queryRef" in tile
    }


def dashboard(cluster_uri: str, database: str) -> dict[str, Any]:
    """The dashboard as the ADX web UI imports it.

    Args:
        cluster_uri: the cluster's query endpoint.
        database: the database that has the functions.

    Raises:
        SchemaScriptError: the file is not there, or the cluster is not an address.
        InvalidNameError: the database's name could not be one.
    """
    kql_name(database)
    if not _CLUSTER.fullmatch(cluster_uri):
        raise SchemaScriptError(f"ADX_CLUSTER_URI: {cluster_uri!r} is not the address of a cluster.")
    found: dict[str, Any] = orjson.loads(dashboard_file().read_bytes())
    for source in found["dataSources"]:
        source.update(clusterUri=cluster_uri, database=database)
    return found
