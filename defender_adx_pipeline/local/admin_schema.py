"""Admin routes that change the columns of a Defender table while it is in use, as a tenant's schema changes.

- `POST /source/columns` with `{"table": T, "add": "Name", "type": "string"}`: a further column; rows that are posted to
  `/source/rows` from now on may have values in it. With `"value": ...` the rows that are there have that value, with
  `"since": "2026-11-10T00:00:00Z"` only those from this time on; the answer says in `filled` how many.
- `{"table": T, "drop": "Name"}`: the column and its values go.
- `{"table": T, "retype": "ErrorCode", "type": "string"}`: another type; rows keep their value where it holds it.
- `GET /source/columns?table=T`, and the answer to each change: `{"table": T, "columns": {"Name": "string", ...}}`.

A change shows in `T | getschema`, in every answer of hunting and in `/source/rows` at once. The functions behind it are
`source_schema.add_column`, `drop_column` and `retype_column`, for tests that hold the tenant's `source`.

Here: routes. Not here: what they do (`source_schema`), and the other routes of the admin app (`admin`).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.local.source import SourceError, SourceStore
from defender_adx_pipeline.local.source_schema import add_column, drop_column, retype_column


def schema_routes(source: SourceStore) -> list[Route]:
    """All routes; the module's docstring lists them."""
    return [Route("/source/columns", _columns(source), methods=["GET", "POST"])]


def _columns(source: SourceStore) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        try:
            if request.method == "GET":
                return JSONResponse(_shown(source, request.query_params.get("table", "")))
            given = orjson.loads(await request.body())
            return JSONResponse(await run_in_threadpool(_change, source, **given))
        except (SourceError, TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return answer


def _change(source: SourceStore, *, table: str, **change: Any) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "add" in change:
        told["filled"] = _add(source, table, **change)
    elif "drop" in change:
        _drop(source, table, **change)
    else:
        _retype(source, table, **change)
    return {**_shown(source, table), **told}


def _add(source: SourceStore, table: str, *, add: str, type: str, since: str = "", value: Any = None) -> int:  # noqa: A002 - the names in the request
    moment = datetime.fromisoformat(since) if since else None
    return add_column(source, table, Column(add, type), since=moment, value=value)


def _drop(source: SourceStore, table: str, *, drop: str) -> None:
    drop_column(source, table, drop)


def _retype(source: SourceStore, table: str, *, retype: str, type: str) -> None:  # noqa: A002 - the names in the request
    retype_column(source, table, retype, type)


def _shown(source: SourceStore, table: str) -> dict[str, Any]:
    if table not in source.catalogue:
        raise SourceError(f"the source has no table {table!r}")
    return {"table": table, "columns": {column.name: column.type for column in source.columns(table)}}
