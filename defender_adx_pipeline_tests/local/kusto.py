"""The real Kusto and storage clients pointed at a local tenant, for the tests of its ADX side."""

import gzip
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from azure.kusto.data import ClientRequestProperties, KustoClient, KustoConnectionStringBuilder
from azure.kusto.data.data_format import DataFormat
from azure.kusto.ingest import IngestionProperties, QueuedIngestClient, ReportLevel, StreamDescriptor

from defender_adx_pipeline.local.tenant import DATABASE, LocalTenant

MAPPING = '[{"column":"Records","Properties":{"Path":"$"}}]'


class Kusto:
    """Clients of one tenant, and short names for what tests do with them."""

    def __init__(self, tenant: LocalTenant) -> None:
        self.tenant = tenant
        environment = tenant.environment()
        self.client = KustoClient(KustoConnectionStringBuilder.with_no_authentication(environment["ADX_CLUSTER_URI"]))
        self.management = KustoClient(
            KustoConnectionStringBuilder.with_no_authentication(environment["ADX_INGEST_URI"])
        )
        self.queued = QueuedIngestClient(
            KustoConnectionStringBuilder.with_no_authentication(environment["ADX_INGEST_URI"])
        )

    def close(self) -> None:
        self.client.close()
        self.management.close()
        self.queued.close()

    def rows(self, query: str, **parameters: str) -> list[list[Any]]:
        properties = ClientRequestProperties()
        for name, value in parameters.items():
            properties.set_parameter(name, value)
        answer = self.client.execute_query(DATABASE, query, properties if parameters else None)
        return [row.to_list() for row in answer.primary_results[0]]

    def command(self, text: str) -> list[dict[str, Any]]:
        return [row.to_dict() for row in self.client.execute_mgmt(DATABASE, text).primary_results[0]]

    def count(self, table: str) -> int:
        return int(self.rows(f"['{table}'] | count")[0][0])

    def raw_table(self, name: str) -> None:
        self.command(f".create-merge tables ['{name}'] (Records: dynamic)")
        self.command(f""".create-or-alter table ['{name}'] ingestion json mapping "DynamicJsonMap" '{MAPPING}'""")

    def queue(
        self,
        table: str,
        data: bytes,
        *,
        slice_id: str | None = None,
        format_: DataFormat = DataFormat.MULTIJSON,
        mapping: str | None = "DynamicJsonMap",
        database: str = DATABASE,
        report: ReportLevel = ReportLevel.DoNotReport,
        **more: Any,
    ) -> uuid.UUID:
        """Queue a blob with the real client, gzipped unless empty; the slice id is its tag."""
        properties = IngestionProperties(
            database,
            table,
            data_format=format_,
            ingestion_mapping_reference=mapping,
            ingest_by_tags=[slice_id] if slice_id else None,
            ingest_if_not_exists=[slice_id] if slice_id else None,
            report_level=report,
            **more,
        )
        source_id = uuid.uuid4()
        stream = io.BytesIO(gzip.compress(data, 1) if data else b"")
        descriptor = StreamDescriptor(
            stream, source_id, is_compressed=True, size=len(data) or 1, stream_name="records.json.gz"
        )
        self.queued.ingest_from_stream(descriptor, properties)
        return source_id

    def failures(self, table: str) -> list[dict[str, Any]]:
        return self.command(f".show ingestion failures | where Table == '{table}'")


@contextmanager
def kusto(tenant: LocalTenant) -> Iterator[Kusto]:
    clients = Kusto(tenant)
    try:
        yield clients
    finally:
        clients.close()


def json_lines(records: Sequence[Any]) -> bytes:
    return b"\n".join(json.dumps(record, ensure_ascii=False).encode() for record in records)


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition gives as soon as it gives something."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.02)
