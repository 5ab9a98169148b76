"""The count of rows that hunting gave out."""

import json
import threading
from datetime import UTC, datetime

import pytest

from defender_adx_pipeline.catalogue import Catalogue, load_catalogue
from defender_adx_pipeline.local.data import add_state, evolve
from defender_adx_pipeline.local.entra import Application, TokenIssuer
from defender_adx_pipeline.local.hunting import ENDPOINTS, HuntingService
from defender_adx_pipeline.local.limits import CallQuota, HuntingLimits
from defender_adx_pipeline.local.scans import ScanCounter, Scanned, scanned_table
from defender_adx_pipeline.local.source import SourceStore

TABLE = "DeviceTvmSoftwareVulnerabilities"
CATALOGUE = Catalogue({TABLE: load_catalogue()[TABLE]})
KEY = "strcat(DeviceId, SoftwareName, SoftwareVersion, CveId)"


@pytest.fixture
def store():
    store = SourceStore(":memory:", CATALOGUE, lambda: datetime(2026, 11, 24, 12, tzinfo=UTC))
    add_state(store, TABLE, 500)
    yield store
    store.close()


@pytest.fixture
def ask(store):
    limits = HuntingLimits()
    service = HuntingService(store, TokenIssuer("t", [Application("app", "s")]), CallQuota(limits), limits)

    def asked(query):
        return json.loads(service.answer(ENDPOINTS[0], query, None))["results"]

    return asked


def test_buckets_give_out_each_row_once_and_counts_give_out_none(store, ask):
    store.scans.start()
    for number in range(4):
        ask(f"{TABLE} | where hash({KEY}, 4) == {number} | extend CveTags = tostring(CveTags), Day = 1")
    ask(f"{TABLE} | count")
    ask(f"{TABLE} | summarize Rows = count() by DeviceId, SoftwareVendor, SoftwareName, SoftwareVersion, CveId")
    ask(f"{TABLE} | distinct DeviceId, SoftwareVendor, SoftwareName, SoftwareVersion, CveId")
    assert store.scans.report() == {TABLE: Scanned(4, rows=500, distinct=500, repeated=0, most=1, unknown=0)}


def test_rows_that_were_given_out_again_are_told_apart_from_those_that_were_not(store, ask):
    store.scans.start()
    half = len(ask(f"{TABLE} | where hash({KEY}, 2) == 0"))
    ask(TABLE)
    evolve(store, TABLE, new=0, gone=0, changed=500)  # a row that changed is the same row
    ask(f"{TABLE} | sort by CveId asc | extend Row = row_number() | where Row <= 500")
    (scanned,) = store.scans.report().values()
    assert scanned == Scanned(3, rows=1_000 + half, distinct=500, repeated=500, most=3, unknown=0)


def test_rows_without_their_key_are_counted_but_not_known(store, ask):
    store.scans.start()
    ask(f"{TABLE} | project CveId | take 7")
    assert store.scans.report() == {TABLE: Scanned(1, rows=7, distinct=0, repeated=0, most=0, unknown=7)}


def test_nothing_is_counted_before_the_start_after_the_stop_or_of_what_was_refused(store, ask):
    ask(TABLE)
    assert store.scans.report() == {}
    store.scans.start()
    ask(TABLE)
    store.scans.start()  # from zero
    assert store.scans.report() == {}
    limits = HuntingLimits(bytes=1_000)
    service = HuntingService(store, TokenIssuer("t", [Application("app", "s")]), CallQuota(limits), limits)
    with pytest.raises(Exception, match="allowed result size"):
        service.answer(ENDPOINTS[0], TABLE, None)
    assert store.scans.report() == {}
    ask(TABLE)
    store.scans.stop()
    assert store.scans.report() == {}


@pytest.mark.parametrize(
    ("query", "table"),
    [
        (TABLE, TABLE),
        (f"['{TABLE}'] | where CveId has '| count'", TABLE),
        (f"let day = 1; {TABLE} // | summarize\n| take 3", TABLE),
        (f"{TABLE} | count", None),
        (f"{TABLE}\n|  summarize N = dcount(CveId)", None),
        (f"{TABLE} | getschema", None),
        ("print 1", None),
        (f"union {TABLE}", None),
    ],
)
def test_the_query_tells_whose_rows_it_gives_out(query, table):
    found = scanned_table(query, CATALOGUE)
    assert (found.name if found else None) == table


def test_answers_of_several_threads_are_all_counted():
    counter = ScanCounter()
    counter.start()
    threads = [threading.Thread(target=lambda: [counter.add("T", 10, range(10)) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.report() == {"T": Scanned(400, rows=4_000, distinct=10, repeated=10, most=400, unknown=0)}
