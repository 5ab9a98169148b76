"""The admin app of the local tenant: look at the traffic, script faults, read and add the truth.

- `GET /log?service=&since=`: requests; `GET /log/counts`: requests by service since the start.
- `POST /faults` with one rule or a list: `{"service": "hunting", "kind": "throttled_minute", "match": "DeviceInfo",
  "first": 2, "times": 1, "probability": 1.0, "seed": 7, "retry_after": 5}`, where `kind` is a name in
  `presets.PRESETS` or a bare kind of `fault_rules.Fault` with its fields; `GET`: rules with how often they fired;
  `DELETE`: all gone, chaos and tally too.
- `POST /chaos` with `{"seed": 1, "share": 0.1, "weights": {"worker": {"dropped": 1}}}`, the last two optional; `GET`:
  seed, share, calls by service, faults that fired by service and name; `DELETE`: chaos ends, the tally stays.
- `GET /worker`: `{"alive": true, "waiting": 0}`, messages not acknowledged; `POST /worker/crash` with
  `{"restart_after": 0.2}` (null: stays dead): it dies at once, and `died_with_blob` tells whether one was in hand;
  `POST /worker/stop` finishes the blob in hand; `POST /worker/start`.
- `POST /adx/tags/drop?table=T` with a list of tags, or with nothing for all: extents lose them.
- `DELETE /adx/rows`: every table empty, every message gone; schema and functions stay.
- `POST /snapshots/evolve`, `POST /snapshots/rows`, `/scans`: see `admin_snapshots`.
- `GET` and `POST /source/columns`: see `admin_schema`.
- `GET /source/tables`, `GET` and `POST /source/rows?table=T`, `GET /adx/rows?table=T`: the truth of both sides.

Here: routes for tests, for the demo and for a person with curl. Not here: anything that a client of the services uses.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from defender_adx_pipeline.local.admin_schema import schema_routes
from defender_adx_pipeline.local.admin_snapshots import snapshot_routes
from defender_adx_pipeline.local.adx_schema import Extent
from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.faults import BadFaultError, FaultScript
from defender_adx_pipeline.local.frames import KustoFault
from defender_adx_pipeline.local.source import SourceError, SourceStore
from defender_adx_pipeline.local.state import RequestLog
from defender_adx_pipeline.local.worker import IngestionWorker


def admin_routes(
    log: RequestLog, faults: FaultScript, source: SourceStore, adx: AdxStore, worker: IngestionWorker
) -> list[Route]:
    """All routes; the module's docstring lists them."""
    return [
        Route("/log", _log(log), methods=["GET"]),
        Route("/log/counts", lambda _: JSONResponse(log.counts()), methods=["GET"]),
        Route("/faults", _faults(faults), methods=["GET", "POST", "DELETE"]),
        Route("/chaos", _chaos(faults), methods=["GET", "POST", "DELETE"]),
        Route("/worker", lambda _: JSONResponse(_worker_state(worker)), methods=["GET"]),
        Route("/worker/{what}", _worker(worker), methods=["POST"]),
        Route("/adx/tags/drop", _drop_tags(adx), methods=["POST"]),
        Route("/adx/rows", _clear(adx, worker), methods=["DELETE"]),
        Route("/source/tables", lambda _: JSONResponse(source.tables()), methods=["GET"]),
        Route("/source/rows", _source_rows(source), methods=["GET"]),
        Route("/source/rows", _add_rows(source), methods=["POST"]),
        Route("/adx/rows", _adx_rows(adx), methods=["GET"]),
        *snapshot_routes(source),
        *schema_routes(source),
    ]


def _log(log: RequestLog) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        since = request.query_params.get("since")
        number = int(since) if since and since.isdecimal() else None
        moment = datetime.fromisoformat(since) if since and number is None else None
        entries = log.entries(service=request.query_params.get("service"), since=number if moment is None else moment)
        return JSONResponse([entry.as_json() for entry in entries])

    return answer


def _faults(faults: FaultScript) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        if request.method == "DELETE":
            faults.clear()
        elif request.method == "POST":
            try:
                given = orjson.loads(await request.body())
                for record in given if isinstance(given, list) else [given]:
                    faults.add_json(record)
            except (orjson.JSONDecodeError, BadFaultError, TypeError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(faults.as_json())

    return answer


def _chaos(faults: FaultScript) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        if request.method == "DELETE":
            faults.calm()
        elif request.method == "POST":
            try:
                faults.chaos(**orjson.loads(await request.body()))
            except (orjson.JSONDecodeError, BadFaultError, TypeError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(faults.chaos_as_json())

    return answer


def _worker(worker: IngestionWorker) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        what, body = request.path_params["what"], await request.body()
        if what not in ("crash", "start", "stop"):
            return JSONResponse({"error": "a worker can crash, start and stop"}, status_code=404)
        told: dict[str, Any] = {}
        if what == "crash":
            given = orjson.loads(body) if body else {}
            told["died_with_blob"] = await run_in_threadpool(worker.crash, given.get("restart_after", 0.2))
        elif what == "stop" or not worker.alive:
            await run_in_threadpool(worker.stop if what == "stop" else worker.start)
        return JSONResponse({**told, **_worker_state(worker)})

    return answer


def _worker_state(worker: IngestionWorker) -> dict[str, Any]:
    return {"alive": worker.alive, "waiting": worker.waiting()}


def _drop_tags(adx: AdxStore) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        body = await request.body()
        tags = orjson.loads(body) if body else None

        def dropped(extent: Extent) -> Iterable[str]:
            return extent.tags if tags is None else tags

        table = request.query_params.get("table", "")
        changed = await run_in_threadpool(adx.drop_tags, table, dropped)
        return JSONResponse({"table": table, "extents": len(changed)})

    return answer


def _clear(adx: AdxStore, worker: IngestionWorker) -> Callable[[Request], Any]:
    def clear() -> None:
        worker.stop()
        worker.inbox.clear()
        adx.clear_rows()
        worker.start()

    async def answer(_: Request) -> Response:
        await run_in_threadpool(clear)
        return JSONResponse(_worker_state(worker))

    return answer


def _source_rows(source: SourceStore) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        table = request.query_params.get("table", "")
        if table not in source.catalogue:
            return _unknown(table)
        rows = source.rows(table, _moment(request, "start"), _moment(request, "end"))
        return StreamingResponse(_lines(rows), media_type="application/x-ndjson")

    return answer


def _lines(rows: Iterable[bytes]) -> Iterable[bytes]:
    for row in rows:
        yield row.rstrip(b"\n") + b"\n"


def _add_rows(source: SourceStore) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        table = request.query_params.get("table", "")
        if table not in source.catalogue:
            return _unknown(table)
        try:
            records = [orjson.loads(line) for line in (await request.body()).splitlines() if line.strip()]
            inserted = source.insert_rows(table, records)
        except (orjson.JSONDecodeError, SourceError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse({"table": table, "inserted": inserted})

    return answer


def _adx_rows(adx: AdxStore) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        table = request.query_params.get("table", "")
        try:
            return JSONResponse({"table": table, "rows": adx.row_count(table)})
        except KustoFault as fault:
            return JSONResponse({"error": fault.description}, status_code=404)

    return answer


def _moment(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name)
    return datetime.fromisoformat(text) if text else None


def _unknown(table: str) -> Response:
    return JSONResponse({"error": f"the source has no table {table!r}"}, status_code=404)
