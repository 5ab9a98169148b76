"""The envelopes of the Kusto REST API: v1 datasets, v2 frames, OneApi errors.

Here: how results and errors look on the wire ("Query V2 HTTP response", "Query/management HTTP response" and the
error shapes that azure-kusto-data 6 reads). Not here: where a result comes from.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

Columns = Sequence[tuple[str, str]]
"""(name, KQL scalar type) in order."""

_NET_TYPES = {
    "string": "String",
    "datetime": "DateTime",
    "dynamic": "Object",
    "long": "Int64",
    "int": "Int32",
    "bool": "SByte",
    "guid": "Guid",
    "real": "Double",
    "decimal": "SqlDecimal",
    "timespan": "TimeSpan",
}
_COMPLETION_COLUMNS: Columns = (
    ("Timestamp", "datetime"),
    ("ClientRequestId", "string"),
    ("ActivityId", "guid"),
    ("SubActivityId", "guid"),
    ("ParentActivityId", "guid"),
    ("Level", "int"),
    ("LevelName", "string"),
    ("StatusCode", "int"),
    ("StatusCodeName", "string"),
    ("EventType", "int"),
    ("EventTypeName", "string"),
    ("Payload", "string"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A result: columns with KQL types and rows of Python values."""

    columns: Columns
    rows: Sequence[Sequence[Any]] = field(default=())

    def dicts(self) -> list[dict[str, Any]]:
        """Rows by column name."""
        names = [name for name, _ in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


class KustoFault(Exception):  # noqa: N818 - it is the service's answer, not an error of this program
    """An error as the service words it; becomes a OneApi body with `status`."""

    def __init__(
        self,
        description: str,
        *,
        status: int = 400,
        code: str = "General_BadRequest",
        message: str = "Request is invalid and cannot be executed.",
        type_: str = "Kusto.Data.Exceptions.KustoBadRequestException",
        permanent: bool = True,
    ) -> None:
        super().__init__(description)
        self.description = description
        self.status = status
        self.code = code
        self.message = message
        self.type = type_
        self.permanent = permanent

    def body(self, client_request_id: str = "") -> dict[str, Any]:
        """The OneApi error object."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "@type": self.type,
                "@message": self.description,
                "@context": {
                    "timestamp": format_datetime(datetime.now(tz=UTC)),
                    "serviceAlias": "LOCALTENANT",
                    "machineName": "KEngine000000",
                    "processName": "Kusto.WinSvc.Svc",
                    "clientRequestId": client_request_id,
                    "activityId": str(uuid.uuid4()),
                },
                "@permanent": self.permanent,
            }
        }


def semantic_error(text: str) -> KustoFault:
    """A query that parses but does not bind, e.g. "'where' operator: Failed to resolve ... named 'X'"."""
    return KustoFault(
        f"Semantic error: SEM0100: {text}",
        message=f"Request is invalid and cannot be executed.\nSemantic error: SEM0100: {text}",
        type_="Kusto.Data.Exceptions.SemanticException",
    )


def syntax_error(text: str, statement: str) -> KustoFault:
    """A text that does not parse."""
    return KustoFault(
        f"Syntax error: {text}: '{statement[:200]}'",
        code="General_BadRequest",
        type_="Kusto.Data.Exceptions.SyntaxException",
        message=f"Request is invalid and cannot be executed.\nSyntax error: {text}: '{statement[:200]}'",
    )


def entity_not_found(kind: str, name: str, database: str) -> KustoFault:
    """A command that names something the database lacks."""
    return KustoFault(
        f"Entity ID '{name}' of kind '{kind}' was not found.",
        code="BadRequest_EntityNotFound",
        message=f"Request is invalid and cannot be executed.\nEntity ID '{name}' of kind '{kind}' was not found"
        f" in database '{database}'.",
        type_="Kusto.Data.Exceptions.EntityNotFoundException",
    )


def forbidden(principal: str, what: str) -> KustoFault:
    """A principal without the role that a request needs."""
    return KustoFault(
        f"Principal '{principal}' is not authorized to {what}.",
        status=403,
        code="Forbidden",
        message="Caller is not authorized to perform this action",
        type_="Kusto.DataNode.Exceptions.PrincipalNotAuthorizedException",
    )


def too_many_requests(text: str = "Request is denied due to throttling.") -> KustoFault:
    """A throttled request."""
    return KustoFault(
        text,
        status=429,
        code="Too many requests",
        message=text,
        type_="Kusto.Common.Svc.Exceptions.ThrottledException",
        permanent=False,
    )


def v1(table: Table) -> bytes:
    """A management result: one table, which the client takes as the primary one."""
    columns = [
        {"ColumnName": name, "DataType": _NET_TYPES.get(kind, "String"), "ColumnType": kind}
        for name, kind in table.columns
    ]
    return orjson.dumps({"Tables": [{"TableName": "Table_0", "Columns": columns, "Rows": encode_rows(table)}]})


def v2(table: Table, *, client_request_id: str = "", partial_failure: KustoFault | None = None) -> bytes:
    """A query result in frames.

    Args:
        table: the one primary result.
        client_request_id: echoed in the completion information.
        partial_failure: an error met after rows were sent: an object among the rows, as the service places it unless
            asked otherwise, and HasErrors in the last frame.
    """
    rows: list[Any] = encode_rows(table)
    errors = [partial_failure.body(client_request_id)] if partial_failure else None
    if errors:
        rows.append({"OneApiErrors": errors})
    completion: dict[str, Any] = {"FrameType": "DataSetCompletion", "HasErrors": bool(errors), "Cancelled": False}
    if errors:
        completion["OneApiErrors"] = errors
    return orjson.dumps(
        [_HEADER, _PROPERTIES, _primary(table.columns, rows), _completed(client_request_id), completion]
    )


def cut_short(body: bytes, keep: float, *, in_rows: bool) -> bytes:
    """The answer of a query that failed when a share of its rows had been sent.

    Args:
        body: a v2 answer as `v2` makes it; any other comes back as it is.
        keep: share of the rows that are kept.
        in_rows: whether the error stands among the rows as well, or in the last frame alone.
    """
    answer = orjson.loads(body)
    if not isinstance(answer, list):
        return body
    error = KustoFault(
        "Query execution lacks memory resources to complete (80DA0007): Partial query failure: Low memory condition"
        " (E_LOW_MEMORY_CONDITION).",
        code="LimitsExceeded",
        type_="Kusto.Data.Exceptions.KustoServicePartialQueryFailureLowMemoryConditionException",
        permanent=False,
    )
    errors = [error.body()]
    for frame in answer:
        if frame.get("TableKind") == "PrimaryResult":
            rows = frame["Rows"]
            del rows[int(len(rows) * keep) :]
            if in_rows:
                rows.append({"OneApiErrors": errors})
        elif frame["FrameType"] == "DataSetCompletion":
            frame.update(HasErrors=True, OneApiErrors=errors)
    return orjson.dumps(answer)


def encode_rows(table: Table) -> list[Any]:
    """Rows as JSON values, by KQL type: datetimes with seven digits, dynamics spliced in as they are stored."""
    kinds = [kind for _, kind in table.columns]
    return [[_encode(kind, value) for kind, value in zip(kinds, row, strict=True)] for row in table.rows]


def format_datetime(value: datetime) -> str:
    """A datetime as Kusto writes it: UTC, seven digits, Z."""
    utc = value.astimezone(UTC) if value.tzinfo else value
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond:06d}0Z".rjust(28, "0")


def format_timespan(value: timedelta) -> str:
    """A timespan as Kusto writes it: [-][d.]hh:mm:ss[.fffffff]."""
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    hours, rest = divmod(value.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    days = f"{value.days}." if value.days else ""
    digits = f".{value.microseconds:06d}0" if value.microseconds else ""
    return f"{sign}{days}{hours:02d}:{minutes:02d}:{seconds:02d}{digits}"


def _encode(kind: str, value: Any) -> Any:
    if value is None:
        return "" if kind == "string" else None
    if kind == "dynamic":
        return _encode_dynamic(value)
    if isinstance(value, datetime):
        return format_datetime(value)
    if isinstance(value, timedelta):
        return format_timespan(value)
    if isinstance(value, (Decimal, uuid.UUID, date)):
        return str(value)
    return _encode_real(value) if isinstance(value, float) else value


def _encode_dynamic(value: Any) -> Any:
    if isinstance(value, str):
        return orjson.Fragment(value)  # the stored JSON text: digits and property order are as they came
    return orjson.loads(orjson.dumps(value, default=str))


def _encode_real(value: float) -> Any:
    if value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


_HEADER = {
    "FrameType": "DataSetHeader",
    "IsProgressive": False,
    "Version": "v2.0",
    "IsFragmented": False,
    "ErrorReportingPlacement": "InData",
}
_PROPERTIES = {
    "FrameType": "DataTable",
    "TableId": 0,
    "TableKind": "QueryProperties",
    "TableName": "@ExtendedProperties",
    "Columns": [
        {"ColumnName": "TableId", "ColumnType": "int"},
        {"ColumnName": "Key", "ColumnType": "string"},
        {"ColumnName": "Value", "ColumnType": "dynamic"},
    ],
    "Rows": [[1, "Visualization", '{"Visualization":null,"Title":null}']],
}


def _primary(columns: Columns, rows: list[Any]) -> dict[str, Any]:
    return {
        "FrameType": "DataTable",
        "TableId": 1,
        "TableKind": "PrimaryResult",
        "TableName": "PrimaryResult",
        "Columns": [{"ColumnName": name, "ColumnType": kind} for name, kind in columns],
        "Rows": rows,
    }


def _completed(client_request_id: str) -> dict[str, Any]:
    activity = str(uuid.uuid4())
    payload = '{"Count":1,"Text":"Query completed successfully"}'
    row = [format_datetime(datetime.now(tz=UTC)), client_request_id, activity, activity, activity]
    row += [4, "Info", 0, "S_OK (0)", 4, "QueryInfo", payload]  # type: ignore[list-item]
    return {
        "FrameType": "DataTable",
        "TableId": 2,
        "TableKind": "QueryCompletionInformation",
        "TableName": "QueryCompletionInformation",
        "Columns": [{"ColumnName": name, "ColumnType": kind} for name, kind in _COMPLETION_COLUMNS],
        "Rows": [row],
    }
