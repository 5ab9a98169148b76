"""The admin app of the local tenant: look at the traffic, script faults, read and add the truth.

Here: routes for tests, for the demo and for a person with curl. Not here: anything that a client of the services uses.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.faults import BadFaultError, FaultScript
from defender_adx_pipeline.local.frames import KustoFault
from defender_adx_pipeline.local.source import SourceError, SourceStore
from defender_adx_pipeline.local.state import RequestLog


def admin_routes(log: RequestLog, faults: FaultScript, source: SourceStore, adx: AdxStore) -> list[Route]:
    """`/log`, `/faults`, `/source/tables`, `/source/rows`, `/adx/rows`."""
    return [
        Route("/log", _log(log), methods=["GET"]),
        Route("/faults", _faults(faults), methods=["GET", "POST", "DELETE"]),
        Route("/source/tables", lambda _: JSONResponse(source.tables()), methods=["GET"]),
        Route("/source/rows", _source_rows(source), methods=["GET"]),
        Route("/source/rows", _add_rows(source), methods=["POST"]),
        Route("/adx/rows", _adx_rows(adx), methods=["GET"]),
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
