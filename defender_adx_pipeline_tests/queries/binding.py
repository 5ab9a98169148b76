"""Queries against schemas, bound by Microsoft's parser.

Here: the schema that Microsoft documents, the schema read back from a database, and the call of `tools/kql_bind.js`.
Not here: which queries (`collection`, `tools/kql_collection.py`).
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.catalogue import load_catalogue

TOOL = Path(__file__).parents[2] / "tools" / "kql_bind.js"

Schema = dict[str, dict[str, Any]]
"""`tables`: types by table and column; `functions`: parameters and body by name."""
Bound = Mapping[str, Mapping[str, list[str]]]
"""By query and schema the errors; without any, the query binds."""


class BinderError(RuntimeError):
    """Microsoft's parser could not be run."""


def documented_schema() -> Schema:
    """Tables and columns as Microsoft's pages list them."""
    tables = {table.name: {column.name: column.type for column in table.columns} for table in load_catalogue().values()}
    return {"tables": tables, "functions": {}}


def read_back_schema(adx: AdxClient) -> Schema:
    """Tables and functions that a database has, in one command."""
    (row,) = adx.command(".show database schema as json", idempotent=True)
    (database,) = json.loads(row["DatabaseSchema"])["Databases"].values()
    return {
        "tables": {
            name: {column["Name"]: column["CslType"] for column in table["OrderedColumns"]}
            for name, table in database["Tables"].items()
        },
        "functions": {
            name: {"parameters": _parameters(function), "body": function["Body"]}
            for name, function in database["Functions"].items()
        },
    }


def bind(schemas: Mapping[str, Schema], queries: Mapping[str, str]) -> Bound:
    """Where each of the queries, by name, binds.

    Raises:
        BinderError: Node.js or its modules are not there, or the tool failed.
    """
    asked = {"schemas": schemas, "queries": [{"name": name, "text": text} for name, text in queries.items()]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input.json"
        file.write_text(json.dumps(asked), encoding="utf-8")
        try:
            run = subprocess.run(["node", TOOL, file], capture_output=True, check=True, text=True)
        except FileNotFoundError as error:
            raise BinderError("there is no node on this machine: install Node.js 20 or later") from error
        except subprocess.CalledProcessError as error:
            raise BinderError(f"tools/kql_bind.js failed; `make kql` installs what it needs. {error.stderr}") from error
    bound: Bound = json.loads(run.stdout)
    return bound


def _parameters(function: Mapping[str, Any]) -> str:
    """The parameters as KQL: `(A: string, B: (C: long))`, from what `.show database schema as json` says of them."""
    return f"({', '.join(_parameter(one) for one in function.get('InputParameters') or ())})"


def _parameter(parameter: Mapping[str, Any]) -> str:
    columns = parameter.get("Columns")
    if columns:
        return f"{parameter['Name']}: ({', '.join(_parameter(one) for one in columns)})"
    return f"{parameter['Name']}: {parameter['CslType']}"
