import json
from collections.abc import Iterator

import pytest
from azure.kusto.data.exceptions import KustoApiError

from defender_adx_pipeline_tests.local.kusto import Kusto, eventually, json_lines, kusto

EXPAND = "Timestamp = todatetime(Records.Timestamp), N = tolong(Records.N), At = ingestion_time()"


@pytest.fixture(scope="module")
def adx(open_tenant) -> Iterator[Kusto]:
    with open_tenant(scale=0, batching_delay=0.0) as tenant, kusto(tenant) as clients:
        yield clients


def policy(adx: Kusto, target: str, source: str, query: str, **more: object) -> None:
    body = [{"IsEnabled": True, "Source": source, "Query": query, "IsTransactional": True, **more}]
    adx.command(f".alter table {target} policy update ```{json.dumps(body)}```")


def typed(adx: Kusto, name: str) -> None:
    adx.raw_table(f"{name}Raw")
    adx.command(f".create-merge table {name} (Timestamp: datetime, N: long, At: datetime)")
    adx.command(f".create-or-alter function Expand{name}() {{ {name}Raw | project {EXPAND} }}")


def test_new_rows_and_no_others_are_expanded_into_the_typed_table(adx):
    typed(adx, "Alpha")
    adx.queue("AlphaRaw", json_lines([{"N": 0}]))
    eventually(lambda: adx.count("AlphaRaw") == 1)
    policy(adx, "Alpha", "AlphaRaw", "ExpandAlpha()", PropagateIngestionProperties=True)
    for number in (1, 2):
        records = [{"Timestamp": "2026-08-01T00:00:00Z", "N": number}]
        adx.queue("AlphaRaw", json_lines(records), slice_id=f"s{number}")
    eventually(lambda: adx.count("AlphaRaw") == 3)
    assert [row[0] for row in adx.rows("Alpha | order by N asc | project N")] == [1, 2]
    assert adx.rows("Alpha | where isnull(At) | count") == [[0]]
    tags = [row["Tags"] for row in adx.command(".show table Alpha extents")]
    assert sorted(tags) == ["ingest-by:s1", "ingest-by:s2"]
    assert adx.failures("AlphaRaw") == []


def test_a_transactional_policy_that_fails_takes_the_ingestion_with_it(adx):
    typed(adx, "Beta")
    policy(adx, "Beta", "BetaRaw", "BetaRaw | project N = 1")
    adx.queue("BetaRaw", json_lines([{"N": 1}]), slice_id="b")
    failure = eventually(lambda: adx.failures("BetaRaw"))[0]
    assert failure["ErrorCode"] == "UpdatePolicy_QuerySchemaDoesNotMatchTableSchema"
    assert failure["OriginatesFromUpdatePolicy"]
    assert (adx.count("BetaRaw"), adx.count("Beta")) == (0, 0)
    with pytest.raises(KustoApiError, match="update policy"):
        adx.command(".append BetaRaw <| print dynamic({})")


def test_a_policy_that_is_not_transactional_lets_the_source_have_its_rows(adx):
    typed(adx, "Gamma")
    policy(adx, "Gamma", "GammaRaw", "GammaRaw | project N = 1", IsTransactional=False)
    adx.queue("GammaRaw", json_lines([{"N": 1}]))
    eventually(lambda: adx.count("GammaRaw") == 1)
    assert adx.count("Gamma") == 0


def test_policies_cascade_and_a_disabled_one_does_nothing(adx):
    for name in ("D1", "D2", "D3"):
        adx.command(f".create table {name} (N: long)")
    policy(adx, "D2", "D1", "D1 | extend N = N + 1")
    policy(adx, "D3", "D2", "D2 | extend N = N + 1")
    adx.command(".append D1 <| print 1")
    assert [adx.rows(name)[0][0] for name in ("D1", "D2", "D3")] == [1, 2, 3]
    policy(adx, "D2", "D1", "D1", IsEnabled=False)
    adx.command(".append D1 <| print 5")
    assert adx.count("D2") == 1


def test_a_query_whose_columns_have_other_names_or_another_order_fails(adx):
    adx.command(".create table E1 (N: long, M: long)")
    adx.command(".create table E2 (N: long, M: long)")
    for query in ("E1 | project N, Other = M", "E1 | project M, N"):
        policy(adx, "E2", "E1", query)
        with pytest.raises(KustoApiError, match="QuerySchemaDoesNotMatchTableSchema|update policy"):
            adx.command(".append E1 <| print N = 1, M = 2")
    assert (adx.count("E1"), adx.count("E2")) == (0, 0)
