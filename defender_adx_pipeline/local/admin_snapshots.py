"""Admin routes around snapshot tables: moving their state on, and counting how often their rows were given out.

- `POST /snapshots/evolve` with `{"table": T, "new": 5, "gone": 0.01, "changed": 3, "seed": 7}`, all but the table
  optional: the state moves on by whole numbers of rows or shares (JSON numbers with a point), and the answer says by
  how much. With `"at_call": 3` and perhaps `"match": "text"` it moves later, just before the third hunting call from
  now whose query contains the text.
- `POST /snapshots/rows` with `{"table": T, "rows": 1000000, "seed": 7}`: so many more generated rows.
- `POST /scans`: count the rows that hunting gives out, from zero; `GET`: `{table: {calls, rows, distinct, repeated,
  most, unknown}}`, see `scans.Scanned`; `DELETE`: count no more.

Here: routes. Not here: what they do (`data.snapshots`, `scans`), and the other routes of the admin app (`admin`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from defender_adx_pipeline.local.data.snapshots import add_state, evolve, evolve_at
from defender_adx_pipeline.local.source import SourceError, SourceStore


def snapshot_routes(source: SourceStore) -> list[Route]:
    """All routes; the module's docstring lists them."""
    return [
        Route("/snapshots/evolve", _posted(source, _evolve), methods=["POST"]),
        Route("/snapshots/rows", _posted(source, _add), methods=["POST"]),
        Route("/scans", _scans(source), methods=["GET", "POST", "DELETE"]),
    ]


def _posted(source: SourceStore, work: Callable[..., Mapping[str, Any]]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        try:
            given = orjson.loads(await request.body())
            return JSONResponse(await run_in_threadpool(work, source, **given))
        except (orjson.JSONDecodeError, SourceError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return answer


def _evolve(
    source: SourceStore, *, table: str, at_call: int | None = None, match: str = "", **move: Any
) -> Mapping[str, Any]:
    if at_call is None:
        return asdict(evolve(source, table, **move))
    evolve_at(source, at_call, table, match=match, **move)
    return {"table": table, "at_call": at_call, "match": match}


def _add(source: SourceStore, *, table: str, rows: int, seed: int = 7) -> Mapping[str, Any]:
    return {"table": table, "new": add_state(source, table, rows, seed=seed)}


def _scans(source: SourceStore) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        if request.method == "POST":
            source.scans.start()
        elif request.method == "DELETE":
            source.scans.stop()
        return JSONResponse({name: asdict(scanned) for name, scanned in source.scans.report().items()})

    return answer
