"""The ingestion path with the Azurite emulator in place of the tenant's own storage server."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from azure.kusto.ingest import ReportLevel
from azure.kusto.ingest.status import KustoIngestStatusQueues

from defender_adx_pipeline.local.tenant import ExternalStorage
from defender_adx_pipeline_tests.local.kusto import eventually, json_lines, kusto

pytestmark = pytest.mark.azurite

AZURITE = Path(__file__).parents[2] / "node_modules" / ".bin" / "azurite"
# The emulator's well-known key, the same on every machine (Azurite's README).
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExternalStorage]:
    if not AZURITE.exists() or which("node") is None:
        pytest.skip("no Azurite: `npm ci` in the project's folder (needs Node) installs it in node_modules")
    blob, queue, table = _free_ports(3)
    arguments = ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"]
    for name, port in (("blob", blob), ("queue", queue), ("table", table)):
        arguments += [f"--{name}Host", "127.0.0.1", f"--{name}Port", str(port)]
    folder = tmp_path_factory.mktemp("azurite")
    process = subprocess.Popen([str(AZURITE), *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not (_listens(blob) and _listens(queue)):
            assert process.poll() is None, "Azurite ended at once"
            assert time.monotonic() < until, "Azurite did not start"
            time.sleep(0.05)
        root = "http://127.0.0.1:{}/devstoreaccount1"
        yield ExternalStorage(root.format(blob), root.format(queue), KEY)
    finally:
        process.terminate()
        process.wait(10)


def test_blobs_go_through_azurite_into_the_engine(open_tenant, azurite):
    records = [{"Timestamp": "2026-08-01T01:02:03.1234567Z", "N": number, "Text": "é\u2028"} for number in range(500)]
    with open_tenant(scale=0, batching_delay=0.05, storage=azurite) as tenant, kusto(tenant) as adx:
        adx.raw_table("AzuriteRaw")
        for _ in range(2):
            adx.queue("AzuriteRaw", json_lines(records), slice_id="one", report=ReportLevel.FailuresAndSuccesses)
        adx.queue("AzuriteRaw", b'{"broken"', report=ReportLevel.FailuresOnly)
        eventually(lambda: adx.count("AzuriteRaw") == 500, seconds=60)
        eventually(lambda: adx.failures("AzuriteRaw"), seconds=60)
        assert adx.count("AzuriteRaw") == 500
        assert [row["Tags"] for row in adx.command(".show table AzuriteRaw extents")] == ["ingest-by:one"]
        stored = adx.tenant.adx.cursor().execute('SELECT "Records" FROM "AzuriteRaw"').fetchall()
        assert {row[0].encode() for row in stored} == set(json_lines(records).split(b"\n"))
        reports = KustoIngestStatusQueues(adx.queued).failure.pop(10)
        assert [report.ErrorCode for report in reports] == ["BadRequest_InvalidBlob"]
        # Nothing went to the tenant's own storage server.
        assert tenant.log.entries(service="storage") == []
