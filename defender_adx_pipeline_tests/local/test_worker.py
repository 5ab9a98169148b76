import base64
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from azure.kusto.data.data_format import DataFormat
from azure.kusto.ingest import ColumnMapping, ReportLevel
from azure.kusto.ingest.status import KustoIngestStatusQueues

from defender_adx_pipeline.local.ingest_endpoint import READY
from defender_adx_pipeline.local.loading import IngestionError, json_path
from defender_adx_pipeline_tests.local.kusto import Kusto, eventually, json_lines, kusto

RECORDS = [
    {"Timestamp": "2026-08-01T01:02:03.1234567Z", "ReportId": 12345678901234567890, "Text": "é \u2028 \"'", "N": None},
    {"b": 1.10, "a": {"nested": [1, {"x": "y"}]}, "t": True},
]


@pytest.fixture(scope="module")
def adx(open_tenant) -> Iterator[Kusto]:
    with open_tenant(scale=0, batching_delay=0.02) as tenant, kusto(tenant) as clients:
        yield clients


@pytest.fixture
def table(adx: Kusto, request: pytest.FixtureRequest) -> str:
    name = f"T{abs(hash(request.node.name))}Raw"
    adx.raw_table(name)
    adx.tenant.faults.clear()
    return name


def settled(adx: Kusto) -> None:
    """Every message has been dealt with."""
    eventually(lambda: all(adx.tenant.storage.message_count(queue) == 0 for queue in READY))


def failure_of(adx: Kusto, table: str) -> dict:
    return eventually(lambda: adx.failures(table))[0]


def test_a_queued_blob_becomes_rows_exactly_as_they_were_sent(adx, table):
    data = json_lines(RECORDS)
    adx.queue(table, data, slice_id="one")
    eventually(lambda: adx.count(table) == 2)
    stored = adx.tenant.adx.cursor().execute(f'SELECT "Records" FROM "{table}"').fetchall()
    assert [row[0].encode() for row in stored] == data.split(b"\n")
    extents = adx.command(f".show table ['{table}'] extents")
    assert [(row["Tags"], row["RowCount"]) for row in extents] == [("ingest-by:one", 2)]


def test_a_dynamic_column_reads_in_kql(adx, table):
    adx.queue(table, json_lines(RECORDS))
    eventually(lambda: adx.count(table) == 2)
    query = f"{table} | where todatetime(Records['Timestamp']) > datetime(2026-08-01) | project tostring(Records.Text)"
    assert adx.rows(query) == [["é \u2028 \"'"]]


def test_the_same_slice_twice_is_loaded_once(adx, table):
    for _ in range(2):
        adx.queue(table, json_lines(RECORDS), slice_id="twice")
    settled(adx)
    assert adx.count(table) == 2
    assert adx.failures(table) == []


def test_the_tag_is_the_tables_own(adx, table):
    adx.raw_table("AnotherRaw")
    for name in (table, "AnotherRaw"):
        adx.queue(name, json_lines(RECORDS), slice_id="shared")
    settled(adx)
    assert (adx.count(table), adx.count("AnotherRaw")) == (2, 2)


def test_one_bad_record_refuses_the_whole_blob_in_multijson(adx, table):
    adx.queue(table, json_lines(RECORDS) + b'\n{"broken": ', slice_id="bad")
    failure = failure_of(adx, table)
    assert (failure["ErrorCode"], failure["FailureKind"], failure["ShouldRetry"]) == (
        "BadRequest_InvalidBlob",
        "Permanent",
        False,
    )
    assert adx.count(table) == 0
    assert adx.command(f".show table {table} extents") == []
    assert json.loads(failure["IngestionProperties"])["tags"] == '["ingest-by:bad"]'
    assert "sig=" not in json.dumps(failure, default=str)
    assert "authorizationContext" not in failure["IngestionProperties"]


def test_json_lines_leave_a_bad_record_out_without_a_word(adx, table):
    adx.queue(table, b'{"a": 1}\nnot json\n{"a": 2}', format_=DataFormat.JSON)
    eventually(lambda: adx.count(table) == 2)
    assert adx.failures(table) == []


@pytest.mark.parametrize("data", [b'[{"a": 1}, {"a": 2}]', b'{"a":\n1}{"a": 2}', b'\n {"a": 1}\r\n\r\n{"a": 2}\n'])
def test_multijson_takes_arrays_and_objects_however_they_lie(adx, table, data):
    adx.queue(table, data)
    eventually(lambda: adx.count(table) == 2)


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "BadRequest_EmptyBlob"), (b"\n \n", "BadRequest_NoRecordsOrWrongFormat")]
)
def test_a_blob_without_records_fails(adx, table, data, code):
    adx.queue(table, data)
    failures = eventually(lambda: adx.failures(table))
    assert [failure["ErrorCode"] for failure in failures] == [code]


def test_a_missing_table_mapping_or_database_fails_with_its_code(adx, table):
    adx.queue("NoSuchTable", json_lines(RECORDS))
    assert failure_of(adx, "NoSuchTable")["ErrorCode"] == "BadRequest_TableNotExist"
    adx.queue(table, json_lines(RECORDS), mapping="NoSuchMap")
    assert failure_of(adx, table)["ErrorCode"] == "BadRequest_MappingReferenceWasNotFound"
    adx.raw_table("ElsewhereRaw")
    adx.queue("ElsewhereRaw", json_lines(RECORDS), database="elsewhere")
    assert failure_of(adx, "ElsewhereRaw")["ErrorCode"] == "BadRequest_DatabaseNotExist"
    assert adx.count(table) == 0


def test_a_record_above_one_mib_becomes_null_silently(adx, table):
    big = {"Text": "x" * (1024 * 1024)}
    adx.queue(table, json_lines([big, {"a": 1}]))
    eventually(lambda: adx.count(table) == 2)
    assert adx.rows(f"{table} | where isnull(Records) | count") == [[1]]
    assert adx.failures(table) == []


def test_a_mapping_of_fields_converts_and_nulls_what_does_not_fit(adx):
    adx.command(
        ".create-merge table Typed (Name: string, At: datetime, N: long, Ok: bool, Score: real, Bag: dynamic,"
        " Deep: string, Source: string, Fixed: long)"
    )
    paths = {
        "Name": "$.Name",
        "At": "$.At",
        "N": "$.N",
        "Ok": "$.Ok",
        "Score": "$.Score",
        "Bag": "$.Bag",
        "Deep": "$.Bag['a b'][1]",
    }
    mapping = [{"column": column, "Properties": {"Path": path}} for column, path in paths.items()]
    mapping.append({"column": "Source", "Properties": {"Transform": "SourceLocation"}})
    mapping.append({"column": "Fixed", "Properties": {"ConstValue": "7"}})
    adx.command(
        f""".create-or-alter table Typed ingestion json mapping "Fields" '{json.dumps(mapping)}'""".replace(
            "['a b']", "[\\'a b\\']"
        )
    )
    good = {
        "Name": "x",
        "At": "2026-08-01T01:02:03.1234567Z",
        "N": 5,
        "Ok": True,
        "Score": 0.5,
        "Bag": {"a b": [1, "z"]},
    }
    bad = {"Name": None, "At": "soon", "N": "five", "Ok": "perhaps", "Score": {}, "Bag": "text"}
    adx.queue("Typed", json_lines([good, bad]), mapping="Fields")
    eventually(lambda: adx.count("Typed") == 2)
    rows = adx.rows("Typed | order by Name desc | project Name, tostring(At), N, Ok, Score, tostring(Bag), Deep, Fixed")
    assert rows[0] == ["x", "2026-08-01T01:02:03.1234567Z", 5, True, 0.5, '{"a b":[1,"z"]}', "z", 7]
    assert rows[1] == ["", "", None, None, None, "text", "", 7]
    assert adx.rows("Typed | where Source contains 'tempstorage' and Source !contains 'sig=' | count") == [[2]]


def test_an_inline_mapping_works_and_two_mappings_are_one_too_many(adx, table):
    columns = [ColumnMapping("Records", "dynamic", path="$")]
    adx.queue(table, json_lines(RECORDS), mapping=None, column_mappings=columns)
    eventually(lambda: adx.count(table) == 2)


def test_failures_and_successes_are_reported_to_the_shared_queues_when_asked_for(adx, table):
    queues = KustoIngestStatusQueues(adx.queued)
    adx.queue(table, json_lines(RECORDS), report=ReportLevel.FailuresAndSuccesses)
    adx.queue(table, b"{", report=ReportLevel.FailuresOnly)
    adx.queue(table, b"{")
    settled(adx)
    eventually(lambda: not queues.success.is_empty() and not queues.failure.is_empty())
    successes, failures = queues.success.pop(10), queues.failure.pop(10)
    assert [message.Table for message in successes] == [table]
    assert [(message.Table, message.ErrorCode, message.FailureStatus) for message in failures] == [
        (table, "BadRequest_InvalidBlob", "Permanent")
    ]


def test_a_message_without_a_good_identity_is_refused(adx, table):
    message = {
        "Id": "1",
        "BlobPath": "http://127.0.0.1:1/devstoreaccount1/tempstorage0/x.gz?sig=x",
        "DatabaseName": "defender",
        "TableName": table,
        "AdditionalProperties": {"format": "multijson", "authorizationContext": "forged.signature"},
    }
    adx.tenant.storage.put_message(READY[0], base64.b64encode(json.dumps(message).encode()).decode())
    assert failure_of(adx, table)["ErrorCode"] == "Forbidden"


def test_a_blob_url_with_a_forged_signature_cannot_be_read(adx, table):
    token = adx.tenant.worker.identities.issue("aadapp=x;y")
    message = {
        "Id": "1",
        "BlobPath": "http://127.0.0.1:1/devstoreaccount1/tempstorage0/x.gz?sp=r&se=2099-01-01T00%3A00%3A00Z&sig=x",
        "DatabaseName": "defender",
        "TableName": table,
        "AdditionalProperties": {"format": "multijson", "authorizationContext": token},
    }
    adx.tenant.storage.put_message(READY[1], base64.b64encode(json.dumps(message).encode()).decode())
    assert failure_of(adx, table)["ErrorCode"] == "Download_Forbidden"


def test_a_message_delivered_twice_doubles_the_rows_unless_the_tag_forbids_it(adx, table):
    adx.tenant.faults.add("worker", "duplicate", match=table, times=2)
    adx.queue(table, json_lines(RECORDS), slice_id="tagged")
    settled(adx)
    assert adx.count(table) == 2
    adx.queue(table, json_lines(RECORDS))
    settled(adx)
    assert adx.count(table) == 6


def test_an_injected_failure_is_recorded_with_its_code(adx, table):
    adx.tenant.faults.add("worker", "status", match=table, status=503, code="General_RetryAttemptsExceeded")
    adx.queue(table, json_lines(RECORDS))
    failure = failure_of(adx, table)
    assert (failure["ErrorCode"], failure["FailureKind"], failure["ShouldRetry"]) == (
        "General_RetryAttemptsExceeded",
        "Transient",
        True,
    )


def test_a_worker_that_drops_a_message_gets_it_again(adx, table):
    adx.tenant.faults.add("worker", "reset", match=table, times=2)
    adx.queue(table, json_lines(RECORDS))
    eventually(lambda: adx.count(table) == 2)


def test_a_transient_failure_is_reported_and_the_blob_is_loaded_later(adx, table):
    adx.tenant.faults.add("worker", "transient_failure", match=table, seconds=0.1)
    adx.queue(table, json_lines(RECORDS))
    eventually(lambda: adx.count(table) == 2)
    assert [(row["FailureKind"], row["ShouldRetry"]) for row in adx.failures(table)] == [("Transient", True)]


def test_a_late_blob_holds_up_no_other(adx, table):
    adx.tenant.faults.add("worker", "late", match=table, seconds=60)
    adx.queue(table, json_lines(RECORDS), slice_id="late")
    adx.queue(table, json_lines(RECORDS), slice_id="in time")
    eventually(lambda: adx.count(table) == 2)
    # Its message is taken away after its rows are there.
    eventually(lambda: adx.tenant.worker.waiting() == 1)
    # A worker that starts anew has forgotten that it was waiting.
    adx.tenant.worker.crash(restart_after=0)
    eventually(lambda: adx.count(table) == 4)


@pytest.mark.parametrize("fault", ["crash", "crash_before"])
def test_a_worker_that_dies_with_a_blob_gets_its_message_again(adx, table, fault):
    adx.tenant.faults.add("worker", fault, match=table, seconds=0.05)
    adx.queue(table, json_lines(RECORDS))
    adx.queue(table, json_lines(RECORDS), slice_id="tagged")
    settled(adx)
    # Without a tag the rows that were loaded before the death are loaded twice.
    assert adx.count(table) == (6 if fault == "crash" else 4)


def test_a_dead_worker_is_started_again_over_the_admin_endpoint(adx, table):
    url = adx.tenant.url("admin")
    dead = requests.post(f"{url}/worker/crash", json={"restart_after": None}, timeout=10).json()
    assert dead == {"died_with_blob": False, "alive": False, "waiting": 0}
    adx.queue(table, json_lines(RECORDS))
    assert requests.get(f"{url}/worker", timeout=10).json() == {"alive": False, "waiting": 1}
    assert requests.post(f"{url}/worker/start", timeout=10).json()["alive"] is True
    eventually(lambda: adx.count(table) == 2)


def test_a_message_that_is_dropped_is_gone_without_a_word(adx, table):
    adx.tenant.faults.add("worker", "dropped", match=table)
    adx.queue(table, json_lines(RECORDS))
    settled(adx)
    assert (adx.count(table), adx.failures(table)) == (0, [])


def test_a_slice_whose_tag_was_dropped_is_loaded_again(adx, table):
    for slice_id in ("kept", "pruned"):
        adx.queue(table, json_lines(RECORDS), slice_id=slice_id)
    settled(adx)
    changed = adx.command(f".drop table ['{table}'] extent tags ('ingest-by:pruned')")
    assert [row["ResultExtentTags"] for row in changed] == [""]
    for slice_id in ("kept", "pruned"):
        adx.queue(table, json_lines(RECORDS), slice_id=slice_id)
    settled(adx)
    assert adx.count(table) == 6
    shown = f".show table ['{table}'] extents | project ExtentId, Tags"
    span = "with (extentCreatedOnFrom=datetime(2000-01-01), extentCreatedOnTo=datetime({}))"
    assert adx.command(f".drop table ['{table}'] extent tags {span.format('2001-01-01')} <| {shown}") == []
    assert len(adx.command(f".drop table ['{table}'] extent tags {span.format('2200-01-01')} <| {shown}")) == 2
    url = f"{adx.tenant.url('admin')}/adx/tags/drop"
    assert requests.post(url, params={"table": table}, timeout=10).json()["extents"] == 0


def test_everything_is_emptied_over_the_admin_endpoint(open_tenant):
    with open_tenant(scale=0, batching_delay=0.02) as tenant, kusto(tenant) as clients:
        clients.raw_table("EmptiedRaw")
        clients.queue("EmptiedRaw", json_lines(RECORDS), slice_id="once")
        settled(clients)
        tenant.worker.stop()
        clients.queue("EmptiedRaw", json_lines(RECORDS))
        state = requests.delete(f"{tenant.url('admin')}/adx/rows", timeout=10).json()
        assert state == {"alive": True, "waiting": 0}
        assert (clients.count("EmptiedRaw"), clients.command(".show table EmptiedRaw extents")) == (0, [])
        clients.queue("EmptiedRaw", json_lines(RECORDS), slice_id="once")
        eventually(lambda: clients.count("EmptiedRaw") == 2)


def test_a_queue_message_that_is_not_base64_is_dropped(adx):
    adx.tenant.storage.put_message(READY[0], "{not base64}")
    settled(adx)


def test_operations_tell_how_each_ingestion_ended(adx, table):
    for _ in range(2):
        adx.queue(table, json_lines(RECORDS), slice_id="op")
    settled(adx)
    states = [row["State"] for row in adx.command(".show operations | top 2 by LastUpdatedOn desc")]
    assert sorted(states) == ["Completed", "Skipped"]


def test_a_blob_of_fifty_thousand_records_is_loaded_whole(adx, table):
    random.seed(7)
    filler = "".join(random.choice("abcdefghij") for _ in range(1_400))
    data = b"\n".join(
        b'{"Timestamp":"2026-08-01T01:02:03.1234567Z","N":%d,"F":"%s"}' % (n, filler.encode()) for n in range(50_000)
    )
    adx.queue(table, data, slice_id="big")
    eventually(lambda: adx.count(table) == 50_000, seconds=40)


def test_nothing_queued_is_lost_when_the_tenant_is_killed(open_tenant, tmp_path: Path):
    code = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from defender_adx_pipeline.local.tenant import LocalTenant\n"
        "LocalTenant(Path(sys.argv[1]), scale=0, batching_delay=600).start()\nthreading.Event().wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        state = tmp_path / "tenant.json"
        eventually(lambda: state.exists() and state.read_bytes().endswith(b"}"))
        environment = json.loads(state.read_bytes())["environment"]
        assert json.loads(state.read_bytes())["pid"] == process.pid
        with kusto(_Elsewhere(environment)) as before:
            before.raw_table("SurvivorRaw")
            before.queue("SurvivorRaw", json_lines(RECORDS), slice_id="survivor")
            before.command(".set-or-append Kept <| print A = 'x'")
            assert before.count("SurvivorRaw") == 0
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    with open_tenant(tmp_path, scale=0, batching_delay=0.0) as tenant, kusto(tenant) as after:
        eventually(lambda: after.count("SurvivorRaw") == 2)
        assert after.rows("Kept") == [["x"]]


class _Elsewhere:
    """A tenant of another process, by its settings."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def environment(self) -> dict[str, str]:
        return self._environment


@pytest.mark.parametrize(
    ("path", "duckdb"),
    [
        ("$", "$"),
        ("$.a", '$."a"'),
        ("$.a.b_1", '$."a"."b_1"'),
        ("$['a b']", '$."a b"'),
        ("$.['a b'].c", '$."a b"."c"'),
        ('$["a.b"][2]', '$."a.b"[2]'),
    ],
)
def test_a_path_is_read_in_all_its_spellings(path, duckdb):
    assert json_path(path) == duckdb


@pytest.mark.parametrize("path", ["a", "$a", "$.", "$['a'", "$.a b"])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(IngestionError, match="BadRequest_InvalidMapping"):
        json_path(path)


def test_a_table_changed_under_the_worker_fails_the_blob_and_not_the_worker(adx, table):
    adx.command(f'.create-or-alter table {table} ingestion json mapping "Odd" \'[{{"column":"Gone","Path":"$"}}]\'')
    adx.queue(table, json_lines(RECORDS), mapping="Odd")
    assert failure_of(adx, table)["ErrorCode"] == "BadRequest_InconsistentMapping"
    adx.command(f".drop table {table}")
    adx.queue(table, json_lines(RECORDS))
    eventually(lambda: len(adx.failures(table)) == 2)
    adx.raw_table(table)
    adx.queue(table, json_lines(RECORDS))
    eventually(lambda: adx.count(table) == 2)
