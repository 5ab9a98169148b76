"""How Advanced Hunting writes answers and errors, for each of its three APIs, quirks included.

Here: SQL that encodes rows, envelopes, error bodies. Not here: running queries (`hunting`). Sources: live captures in
public test suites (graph2otel's huntclient tests, msgraph-sdk-java#1495) and the API pages of Microsoft's docs:
"security: runHuntingQuery", "Advanced hunting API", "Common Microsoft 365 Defender REST API error codes".

Graph writes bool as SByte with an `@odata.type` side-car, a null of a value type as `{}` or not at all, a dynamic
object with `@odata.type` at every level, a dynamic array as Collection(String) whose objects are JSON strings. The
side-cars come and go between answers. What XDR and MDE do with such values was not seen; they get plain JSON here.
"""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
from duckdb_kql.types import rest_datatype

from defender_adx_pipeline.local.source import json_sql, quoted_text

Api = Literal["graph", "xdr", "mde"]

_BAG_TYPE = "#microsoft.graph.security.dynamicColumnValue"
_CONTEXT = "https://graph.microsoft.com/v1.0/$metadata#microsoft.graph.security.huntingQueryResults"
_SIDE_CARS = {"bool": "#SByte", "long": "#Int64"}
_RESULT_SIZE = (
    "Query execution has exceeded the allowed result size."
    " Optimize your query by limiting the amount of results and try again."
)
_RESOURCES = (
    "Query execution has exceeded the allowed limits. The query execution was preempted."
    " Optimize your query and try again."
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one answer writes its rows."""

    api: Api
    columns: Sequence[tuple[str, str]]
    """Name and KQL type."""
    draw: random.Random

    def row_sql(self) -> str:
        """SQL over columns `c0`, `c1`...: the row's JSON without braces and without its dynamic columns."""
        fields = [
            self._field_sql(f"c{number}", name, kind)
            for number, (name, kind) in enumerate(self.columns)
            if kind != "dynamic"
        ]
        return f"concat({', '.join(fields)})" if fields else "''"

    @property
    def dynamic(self) -> list[tuple[int, str]]:
        """Position and name of the dynamic columns, which `dynamic_field` writes."""
        return [(number, name) for number, (name, kind) in enumerate(self.columns) if kind == "dynamic"]

    def dynamic_field(self, name: str, stored: str | None) -> str:
        """One dynamic value as `,"name":...` with its side-car; empty where a null is left out."""
        key = _json(name)
        if self.api != "graph":
            return f",{key}:{stored if stored is not None else 'null'}"
        value = orjson.loads(stored) if stored is not None else None
        if value is None:
            return f",{key}:{{}}" if self.draw.random() < 0.5 else ""
        encoded: dict[str, Any] = {}
        _put_dynamic(encoded, name, value)
        return "," + orjson.dumps(encoded).decode()[1:-1]

    def envelope(self, started_seconds: float) -> tuple[str, str]:
        """What comes before the rows and after them."""
        names = ("name", "type") if self.api == "graph" else ("Name", "Type")
        schema = _json([{names[0]: name, names[1]: rest_datatype(kind)} for name, kind in self.columns])
        if self.api == "graph":
            return f'{{"@odata.context":{_json(_CONTEXT)},"schema":{schema},"results":[', "]}"
        stats = {
            "ExecutionTime": started_seconds,
            "resource_usage": {
                "cache": {"memory": {"hits": 0, "misses": 0, "total": 0}, "disk": {"hits": 0, "misses": 0, "total": 0}},
                "cpu": {"user": "00:00:00", "kernel": "00:00:00", "total cpu": "00:00:00"},
                "memory": {"peak_per_node": 0},
            },
            "dataset_statistics": [{"table_row_count": 0, "table_size": 0}],
        }
        return f'{{"Stats":{_json(stats)},"Schema":{schema},"Results":[', "]}"

    def _field_sql(self, expression: str, name: str, kind: str) -> str:
        key = _json(name)
        value = f"CAST({expression} AS INTEGER)" if kind == "bool" else json_sql(expression, kind)
        lead = f",{key}:"
        if self.api != "graph":
            return f"coalesce({quoted_text(lead)} || {value}, {quoted_text(lead + 'null')})"
        if kind in _SIDE_CARS and self.draw.random() < 0.6:
            lead = f",{_json(name + '@odata.type')}:{_json(_SIDE_CARS[kind])}{lead}"
        # A null as `{}`, left out, or now this and now that: both were seen for the same types.
        absent = {0: quoted_text(f",{key}:{{}}"), 1: "''"}.get(
            self.draw.randrange(3), f"CASE WHEN random() < 0.5 THEN '' ELSE {quoted_text(f',{key}:{{}}')} END"
        )
        if kind == "string":
            absent = quoted_text(f',{key}:""')
        return f"coalesce({quoted_text(lead)} || {value}, {absent})"


def _put_dynamic(target: dict[str, Any], key: str, value: Any) -> None:
    """Write a value of a dynamic column, or of an object inside one, under its key."""
    if isinstance(value, dict):
        target[key] = _bag(value)
    elif isinstance(value, list):
        target[f"{key}@odata.type"] = "#Collection(String)"
        target[key] = [_json(item) if isinstance(item, dict | list) else item for item in value]
    else:
        target[key] = value


def _bag(value: dict[str, Any]) -> dict[str, Any]:
    bag: dict[str, Any] = {"@odata.type": _BAG_TYPE}
    for key, item in value.items():
        _put_dynamic(bag, key, item)
    return bag


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """One refusal: status, code and message; the API decides the shape of its body."""

    status: int
    code: str
    message: str
    retry_after: int | None = None

    def body(self, api: Api, now: datetime) -> bytes:
        """The JSON body."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if api == "graph":
            request = str(uuid.uuid4())
            moment = now.strftime("%Y-%m-%dT%H:%M:%S")
            error["innerError"] = {"date": moment, "request-id": request, "client-request-id": request}
        else:
            error["target"] = uuid.uuid4().hex
        return orjson.dumps({"error": error})


def too_many_calls(api: Api, allowed: int, window: str, retry_after: int | None) -> ErrorAnswer:
    """429 in the words that were seen live (microsoft-365-docs#4616)."""
    message = f"API calls quota exceeded! maximum allowed {allowed} per {window}"
    return ErrorAnswer(429, "TooManyRequests" if api == "graph" else "429", message, retry_after)


def bad_query(message: str) -> ErrorAnswer:
    """400 with Kusto's message; the same query fails the same way again."""
    return ErrorAnswer(400, "BadRequest", message)


def result_too_large() -> ErrorAnswer:
    """400 for an answer beyond the byte limit."""
    return ErrorAnswer(400, "BadRequest", _RESULT_SIZE)


def out_of_resources() -> ErrorAnswer:
    """400 for a query that ran too long."""
    return ErrorAnswer(400, "BadRequest", _RESOURCES)


REQUEST_TOO_LARGE_HTML = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
    b"<center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
"""The proxy in front answers a body over about 1 MB itself, in HTML."""


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
