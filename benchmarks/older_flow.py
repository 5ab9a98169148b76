"""The flow that this project replaces, as a reference to measure against: `python benchmarks/older_flow.py`.

Scripts that copy hunting tables into Azure Data Explorer by `row_number()` pages were in use before; this is their flow
written anew from a description of what they do, with what loses and doubles rows left in. It is no part of the product
and nothing imports it but the fault matrix, which runs it and the pipeline through the same faults over the same rows.

Two variants. `sequential`: pages of the newest rows first, the watermark written after the first page. `parallel`: a
count, then chunks of the oldest rows first, eight at a time. Both read the XDR endpoint, keep their state in
MigrationConfiguration and MigrationAuditLog, and queue JSON lines without looking at what becomes of them.

Not here: what the client-side counter of 45 calls a minute did, since no case comes near it. Bounded where the scripts
were not: every request has a time-out, and a call that goes on failing ends after `_PATIENCE` tries.
"""

import argparse
import io
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import orjson
import requests
from azure.kusto.data import KustoClient, KustoConnectionStringBuilder
from azure.kusto.data.data_format import DataFormat
from azure.kusto.data.exceptions import KustoError
from azure.kusto.ingest import IngestionProperties, QueuedIngestClient

PAGE_ROWS = 10_000
CHUNK_ROWS = 25_000
CHUNKS_AT_ONCE = 8
FAILED_CHUNKS = "MigrationChunkFailures"
FAILED_CHUNK_COLUMNS = {
    "TableName": "string",
    "LowWatermark": "datetime",
    "HighWatermark": "datetime",
    "Reason": "string",
}

_PATIENCE = 50
_TRIES = 5
_HTTP_SECONDS = 60.0
_AUDIENCE = "https://api.security.microsoft.com/.default"

Row = dict[str, Any]


class OlderFlow:
    """Both variants, against the tenant and the database that settings variables name.

    Args:
        variables: the environment that leads to them, as `LocalTenant.environment()` gives it.
        scale: pages, chunks and row numbers are that much smaller than the scripts' were.
        sleep: how to wait.
    """

    def __init__(self, variables: Mapping[str, str], *, scale: int, sleep: Callable[[float], None]) -> None:
        self.page_rows = PAGE_ROWS // scale
        self.chunk_rows = CHUNK_ROWS // scale
        self._database = variables["ADX_DATABASE"]
        self._hunting_url = f"{variables['DEFENDER_API_URL']}/api/advancedhunting/run"
        self._sleep = sleep
        self._token = _token(variables)
        engine, ingest = (
            KustoConnectionStringBuilder.with_no_authentication(variables[name])
            for name in ("ADX_CLUSTER_URI", "ADX_INGEST_URI")
        )
        self._kusto = KustoClient(engine)
        self._queued = QueuedIngestClient(ingest, auto_correct_endpoint=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._kusto.close()
        self._queued.close()

    # The sequential variant.

    def sequential(self, table: str) -> None:
        """One run over one table: newest rows first, page by page."""
        configuration = self._configuration(table)
        if not configuration["IsActive"]:
            return
        try:
            count = self._pages(table, configuration)
        except (requests.RequestException, KustoError) as error:
            # Pages that were queued before are loaded all the same.
            self._audit(table, "Failed", str(error), 0)
        else:
            self._audit(table, "Success", "", count)

    def _pages(self, table: str, configuration: Row) -> int:
        column, since = configuration["WatermarkColumn"], configuration["LastRefreshedTimeInString"]
        first, total = 1, 0
        while True:
            # Every page sorts the whole window again, as it is by now.
            rows = self._page(
                f"{table} | where {column} > datetime({since}) | order by {column} desc"
                f" | serialize rownum = row_number() | where rownum between ({first} .. {first + self.page_rows - 1})"
            )
            if not rows:
                return total
            self._queue(configuration["DestinationTable"], rows)
            if first == 1:
                # The newest time of all, while the older pages are still unread.
                self._configure(table, watermark=rows[0][column])
            total += len(rows)
            # A 429 has halved this meanwhile, but the page in hand was asked for with the size before.
            first += self.page_rows

    def _page(self, query: str) -> list[Row]:
        for _ in range(_PATIENCE):
            answer = self._hunt(query)
            if answer.status_code == 429:
                self._sleep(float(answer.headers.get("Retry-After", 10)))
                self.page_rows = max(self.page_rows // 2, 1)
            elif answer.status_code >= 500:
                self._sleep(15.0)
            else:
                break
        return _rows(answer)

    # The parallel variant.

    def parallel(self, table: str) -> None:
        """One run over one table: oldest rows first, in chunks.

        Raises:
            KeyError: a chunk got no answer at all; the table is inactive by then.
        """
        configuration = self._configuration(table)
        if not configuration["IsActive"]:
            return
        column, since = configuration["WatermarkColumn"], configuration["LastRefreshedTimeInString"]
        window = f"{table} | where {column} > datetime({since})"
        firsts = [1 + number * self.chunk_rows for number in range(self._chunk_count(window))]
        if not firsts:
            self._audit(table, "Success", "no records", 0)
            return
        results: list[Row] = []
        for batch in range(0, len(firsts), CHUNKS_AT_ONCE):
            with ThreadPoolExecutor(CHUNKS_AT_ONCE) as pool:
                results += pool.map(
                    lambda first: self._chunk(window, configuration, first), firsts[batch : batch + CHUNKS_AT_ONCE]
                )
            self._sleep(1.0)
        self._close(table, results)

    def snapshot(self, table: str, destination: str, order: str, *, at_once: int = CHUNKS_AT_ONCE) -> None:
        """One pass over a table without a time column: chunks in the order of a column that rows share.

        Args:
            table: what to read.
            destination: the raw table that the rows go to.
            order: the column; the scripts took the ingestion time, which such tables may not have.
            at_once: how many chunks are asked for at once.

        Raises:
            RuntimeError: a chunk failed, where the scripts went on.
        """
        configuration = {"WatermarkColumn": order, "DestinationTable": destination}
        firsts = [1 + number * self.chunk_rows for number in range(self._chunk_count(table))]
        with ThreadPoolExecutor(at_once) as pool:
            for result in pool.map(lambda first: self._chunk(table, configuration, first), firsts):
                if result["reason"]:
                    raise RuntimeError(f"{table}: a chunk failed: {result['reason']}")

    def _chunk_count(self, window: str) -> int:
        # No upper bound: the chunks may see other rows than the count did.
        try:
            rows = _rows(self._hunt(f"{window} | count"))
        except requests.RequestException:
            return 0  # which reads as "no records"
        return math.ceil(rows[0]["Count"] / self.chunk_rows)

    def _chunk(self, window: str, configuration: Row, first: int) -> Row:
        column = configuration["WatermarkColumn"]
        query = (
            f"{window} | sort by {column} asc | extend rownum = row_number()"
            f" | where rownum between ({first} .. {first + self.chunk_rows - 1})"
        )
        try:
            for attempt in range(1, _TRIES + 1):
                answer = self._hunt(query)
                if answer.status_code != 429 or attempt == _TRIES:
                    break
                pause = float(answer.headers.get("Retry-After", 10))
                self._sleep(pause + random.uniform(0.0, pause / 5))
            rows = _rows(answer)
        except requests.HTTPError as error:
            return {"rows": 0, "low": None, "high": None, "reason": str(error)}
        except requests.RequestException as error:
            return {"rows": 0, "reason": str(error)}  # without bounds, which the caller will ask for
        if rows:
            self._queue(configuration["DestinationTable"], rows)
        times = [row[column] for row in rows]
        return {"rows": len(rows), "low": min(times, default=None), "high": max(times, default=None), "reason": ""}

    def _close(self, table: str, results: Sequence[Row]) -> None:
        """Write what became of the chunks: failed ones without bounds, which no later run can find again."""
        failed = [result for result in results if result["reason"]]
        if failed:
            self._configure(table, active=False)
            columns = ", ".join(f"{name}: {kind}" for name, kind in FAILED_CHUNK_COLUMNS.items())
            self._command(f".create-merge table {FAILED_CHUNKS} ({columns})")
        for result in failed:
            self._command(
                f".append {FAILED_CHUNKS} <| print TableName = {_text(table)}, LowWatermark = {_moment(result['low'])},"
                f" HighWatermark = {_moment(result['high'])}, Reason = {_text(result['reason'])}"
            )
        # The end of the last chunk, whatever came of the chunks before it.
        self._configure(table, watermark=results[-1]["high"] or "")
        loaded = sum(result["rows"] for result in results)
        self._audit(table, "Failed" if failed else "Success", failed[0]["reason"] if failed else "", loaded)

    # What both share.

    def _hunt(self, query: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._token}"}
        return requests.post(self._hunting_url, json={"Query": query}, headers=headers, timeout=_HTTP_SECONDS)

    def _queue(self, destination: str, rows: Sequence[Row]) -> None:
        stream = io.BytesIO(b"\n".join(orjson.dumps(row) for row in rows))
        properties = IngestionProperties(
            self._database, destination, data_format=DataFormat.JSON, ingestion_mapping_reference="DynamicJsonMap"
        )
        self._queued.ingest_from_stream(stream, properties)  # queued, which is taken for loaded

    def _configuration(self, table: str) -> Row:
        query = f"VwLatestMigrationConfiguration | where SourceTable == {_text(table)}"
        answer = self._kusto.execute_query(self._database, query)
        return dict(answer.primary_results[0][0].to_dict())

    def _configure(self, table: str, *, watermark: str | None = None, active: bool | None = None) -> None:
        changes = [] if active is None else [f"IsActive = {str(active).lower()}"]
        if watermark is not None:
            changes += [
                f"LastRefreshedTime = {_moment(watermark)}",
                f"LastRefreshedTimeInString = {_text(watermark)}",
            ]
        self._command(
            f".append MigrationConfiguration <| VwLatestMigrationConfiguration | where SourceTable == {_text(table)}"
            f" | extend {', '.join(changes)}"
        )

    def _audit(self, table: str, status: str, reason: str, count: int) -> None:
        self._command(
            f".append MigrationAuditLog <| print TableName = {_text(table)}, Timestamp = now(),"
            f" Status = {_text(status)}, FailureReason = {_text(reason)}, RecordCount = toint({count})"
        )

    def _command(self, text: str) -> None:
        self._kusto.execute_mgmt(self._database, text)


def _token(variables: Mapping[str, str]) -> str:
    form = {
        "grant_type": "client_credentials",
        "client_id": variables["AZURE_CLIENT_ID"],
        "client_secret": variables["AZURE_CLIENT_SECRET"],
        "scope": _AUDIENCE,
    }
    url = f"{variables['AZURE_AUTHORITY_HOST']}/{variables['AZURE_TENANT_ID']}/oauth2/v2.0/token"
    answer = requests.post(url, data=form, verify=variables["REQUESTS_CA_BUNDLE"], timeout=_HTTP_SECONDS)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def _rows(answer: requests.Response) -> list[Row]:
    answer.raise_for_status()
    return list(answer.json()["Results"])


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


def _moment(value: str | None) -> str:
    return f"datetime({value})" if value else "datetime(null)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Both flows through all situations; 0 when the pipeline is exact in all of them and the older flow is not."""
    # The cases import this module.
    from defender_adx_pipeline_tests.faults import cases_peers as cases  # noqa: PLC0415
    from defender_adx_pipeline_tests.faults.bench import open_bench  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=cases.SCALE, help="divides all row numbers; default %(default)s")
    chosen = parser.parse_args(arguments)
    with open_bench() as bench:
        right = cases.compare_all(bench, lambda line: print(line, flush=True), chosen.scale)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
