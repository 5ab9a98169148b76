"""A backfill reads only what was ingested when the rows of a part were, and loses no row by it."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.typed_tables import expand_name, typed_table_name
from defender_adx_pipeline.catalogue import Catalogue, DefenderTable, load_catalogue
from defender_adx_pipeline.migration.backfill import backfill
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.backfilling import Between, Record, expanded, no_policy, put, typed

if TYPE_CHECKING:
    from defender_adx_pipeline.local.tenant import LocalTenant

pytestmark = pytest.mark.long

CLOUD, KNOWN = TABLES = tuple(load_catalogue()[n] for n in ("CloudAppEvents", "DeviceTvmSoftwareVulnerabilitiesKB"))
FIRST = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)

Put = Callable[..., None]


@pytest.fixture(scope="module")
def tenant(open_tenant: OpenTenant) -> Iterator["LocalTenant"]:
    with open_tenant(scale=0, catalogue=Catalogue({table.name: table for table in TABLES})) as opened:
        yield opened


@pytest.fixture(scope="module")
def database(tenant: "LocalTenant") -> Iterator[AdxClient]:
    environment = tenant.environment()
    with AdxClient(environment["ADX_CLUSTER_URI"], environment["ADX_DATABASE"], first_wait=0.01) as client:
        bootstrap(client, client_id=None, tenant_id=None, grants=False, tables=TABLES, typed=True)
        yield client


@pytest.fixture
def adx(database: AdxClient) -> AdxClient:
    """The database without a row."""
    clear(database)
    return database


@pytest.fixture(scope="module")
def put_at(database: AdxClient, tenant: "LocalTenant") -> Put:
    """Loads records as if it were another time."""

    def load(moment: datetime, *records: Record, table: DefenderTable = CLOUD) -> None:
        clock, tenant.adx.clock = tenant.adx.clock, lambda: moment
        try:
            put(database, table, records)
        finally:
            tenant.adx.clock = clock

    return load


def clear(adx: AdxClient) -> None:
    for table in TABLES:
        for name in (table.raw_table, typed_table_name(table)):
            adx.command(f".clear table {name} data", idempotent=True)


def event(moment: datetime | None, name: str = "old") -> Record:
    return {"ReportId": f"{name} {moment}"} | ({} if moment is None else {"Timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}"})


def read(adx: AdxClient, update: str) -> int:
    """How many raw rows a replacement reads."""
    bounds = re.search(r"let New = \w+\(\)(\n\| where (?:\(|)ingestion_time.*)", update)
    table = CLOUD if expand_name(CLOUD) in update else KNOWN
    (row,) = adx.query(f"{expand_name(table)}(){bounds[1] if bounds else ''}\n| count")
    return int(row["Count"])


# --- what is read -------------------------------------------------------------------------------


def test_a_part_reads_only_what_was_ingested_when_its_rows_were(adx: AdxClient, put_at: Put) -> None:
    with no_policy(adx, CLOUD):
        for day in range(6):
            put_at(FIRST + (day + 1) * DAY, event(FIRST + day * DAY), event(FIRST + day * DAY + DAY / 2))
    client = Between(adx)
    assert backfill(client, CLOUD, rows_per_part=2).windows == 6
    assert [read(adx, update) for update in client.updates] == [2] * 6
    assert typed(adx, CLOUD) == expanded(adx, CLOUD)
    # Nothing but the two counts at the start and at the end reads everything.
    assert backfill(client, CLOUD, start=FIRST + 2 * DAY, end=FIRST + 4 * DAY, rows_per_part=9).rows == 4
    assert read(adx, client.updates[-1]) == 4


def test_a_day_is_counted_by_the_hour_without_reading_the_other_days(
    adx: AdxClient, tenant: "LocalTenant", put_at: Put
) -> None:
    for day in range(3):
        put_at(FIRST + (day + 1) * DAY, *(event(FIRST + day * DAY + timedelta(hours=hour)) for hour in range(4)))
    before = len(tenant.log.entries(service="engine"))
    assert backfill(adx, CLOUD, rows_per_part=3).rows == 12
    sent = [request.statement or "" for request in tenant.log.entries(service="engine")][before:]
    counts = [text for text in sent if text.startswith("let Raw") and "bin(" in text]
    assert [("1h)" in text, "where ingestion_time() >=" in text) for text in counts] == [
        (False, False), *[(True, True)] * 3, (False, False)
    ]  # fmt: skip


def test_buckets_of_a_snapshot_read_its_extents_alone(adx: AdxClient, put_at: Put) -> None:
    for day in (1, 2):
        taken = FIRST + day * DAY
        rows = [{"SnapshotTime": f"{taken:%Y-%m-%dT%H:%M:%SZ}", "CveId": f"CVE-{number}"} for number in range(9)]
        with no_policy(adx, KNOWN):
            put_at(taken + timedelta(hours=1), *rows[:5], table=KNOWN)
            put_at(taken + timedelta(hours=3), *rows[5:], table=KNOWN)
    client = Between(adx)
    assert backfill(client, KNOWN, rows_per_part=5).windows == 4
    assert [read(adx, update) for update in client.updates] == [9] * 4
    assert typed(adx, KNOWN) == expanded(adx, KNOWN)


# --- rows that came at another time than expected ------------------------------------------------


def test_rows_that_were_ingested_long_after_their_time_or_before_it_stay(adx: AdxClient, put_at: Put) -> None:
    for day in range(3):
        put_at(FIRST + (day + 1) * DAY, event(FIRST + day * DAY))
    # An archive that was imported years later, and rows of devices whose clocks are wrong.
    put_at(FIRST + 500 * DAY, event(FIRST + DAY, "archive"), event(FIRST - 900 * DAY, "archive"))
    put_at(FIRST + DAY, event(FIRST + 2 * DAY, "future"), event(FIRST + 40_000 * DAY, "future"))
    put_at(FIRST + 9 * DAY, event(None), event(FIRST, "late"))
    put(adx, CLOUD, [event(FIRST + DAY, "today"), event(None, "today")])
    before = typed(adx, CLOUD)
    assert before.total() == 11
    client = Between(adx)
    done = backfill(client, CLOUD, rows_per_part=2)
    assert (done.rows, done.windows) == (11, client.replacements)
    assert typed(adx, CLOUD) == before == expanded(adx, CLOUD)


def test_rows_without_an_ingestion_time_are_found_by_reading_everything(
    adx: AdxClient, tenant: "LocalTenant", put_at: Put
) -> None:
    for day in range(3):
        put_at(FIRST + (day + 1) * DAY, event(FIRST + day * DAY))
    put_at(FIRST + 9 * DAY, event(FIRST + DAY, "no policy"))
    raw = f'adx.data."{CLOUD.raw_table}"'
    with tenant.adx.transaction() as cursor:  # as in rows that were ingested before the table had the policy
        cursor.execute(f"UPDATE {raw} SET __ingestion_time = NULL WHERE __ingestion_time = $1", [FIRST + 9 * DAY])
    told: list[str] = []
    client = Between(adx)
    assert backfill(client, CLOUD, rows_per_part=2, tell=told.append).windows == 3
    assert [read(adx, update) for update in client.updates] == [1, 4, 1]
    assert "1 of 3 parts read the whole raw table: rows of theirs have no ingestion time" in told[1]
    assert typed(adx, CLOUD) == expanded(adx, CLOUD)
    assert typed(adx, CLOUD).total() == 4


def test_rows_that_arrive_after_the_count_are_read_whatever_their_time(adx: AdxClient, put_at: Put) -> None:
    for day in range(4):
        put_at(FIRST + (day + 1) * DAY, event(FIRST + day * DAY))

    def load(number: int) -> None:
        put(adx, CLOUD, [event(FIRST + day * DAY, f"load {number}") for day in (0, 1, 2, 3, 900)])

    client = Between(adx, after=load)
    done = backfill(client, CLOUD, rows_per_part=1)
    # No part had to be done once more at the end.
    assert (done.windows, client.replacements) == (4, 4)
    assert typed(adx, CLOUD) == expanded(adx, CLOUD)
    assert typed(adx, CLOUD).total() == 4 + 4 * 5


def test_a_load_that_was_being_committed_as_the_count_began_is_read(adx: AdxClient, put_at: Put) -> None:
    put_at(FIRST + DAY, event(FIRST))
    began = datetime.now(UTC)
    client = Between(adx, before=lambda number: put_at(began - timedelta(hours=2), event(FIRST, f"slow {number}")))
    assert backfill(client, CLOUD).rows == 2
    assert client.replacements == 1
    assert typed(adx, CLOUD) == expanded(adx, CLOUD)


def test_raw_rows_that_come_with_an_old_ingestion_time_are_found_at_the_end(adx: AdxClient, put_at: Put) -> None:
    for day in range(4):
        put_at(FIRST + (day + 1) * DAY, event(FIRST + day * DAY))

    def move(number: int) -> None:
        # As extents that are moved into both tables: their ingestion time stays.
        if number == 2:
            put_at(FIRST + 500 * DAY, *(event(FIRST + day * DAY, "moved") for day in (0, 2, 3)))

    told: list[str] = []
    client = Between(adx, before=move)
    done = backfill(client, CLOUD, rows_per_part=1, tell=told.append)
    assert typed(adx, CLOUD) == expanded(adx, CLOUD)
    assert typed(adx, CLOUD).total() == 7
    # The typed rows of the parts that came after were deleted and not made anew, until the end.
    assert (done.rows, done.windows) == (4 + 2, 4 + 2 * 2)
    assert [update.count("ingestion_time") for update in client.updates[4:]] == [0] * 4
    assert any("4 parts once more: raw rows came to them with an ingestion time from before" in text for text in told)


@settings(max_examples=5)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([None, *range(4)]),  # day of the row
            st.sampled_from([0, 1, 2, 5, 400, None]),  # day of its ingestion, now where there is none
            st.booleans(),  # whether the update policy was there
        ),
        max_size=7,
    ),
    most=st.integers(1, 3),
    arriving=st.sampled_from([None, 0, 2, 400]),
)
def test_whenever_rows_were_ingested_each_has_its_typed_one(
    database: AdxClient,
    put_at: Put,
    rows: list[tuple[int | None, int | None, bool]],
    most: int,
    arriving: int | None,
) -> None:
    clear(database)
    for number, (day, ingested, has_policy) in enumerate(rows):
        record = event(None if day is None else FIRST + day * DAY, f"{number}")
        moment = datetime.now(UTC) if ingested is None else FIRST + ingested * DAY
        if has_policy:
            put_at(moment, record)
        else:
            with no_policy(database, CLOUD):
                put_at(moment, record)
    late = [] if arriving is None else [event(FIRST + arriving * DAY, "late"), event(None, "late")]
    client = Between(database, after=lambda number: number == 1 and put(database, CLOUD, late))
    backfill(client, CLOUD, rows_per_part=most)
    assert typed(database, CLOUD) == expanded(database, CLOUD)
