from collections.abc import Iterator

import pytest
from azure.identity import ClientSecretCredential
from azure.kusto.data import ClientRequestProperties, KustoClient, KustoConnectionStringBuilder
from azure.kusto.data.exceptions import KustoApiError, KustoMultiApiError, KustoServiceError

from defender_adx_pipeline.local.tenant import CLIENT_ID, CLIENT_SECRET, DATABASE, TENANT_ID
from defender_adx_pipeline_tests.local.kusto import Kusto, kusto

CONFIGURATION = (
    "SourceTable: string, DestinationTable: string, WatermarkColumn: string, LastRefreshedTime: datetime,"
    " LastRefreshedTimeInString: string, LoadType: string, IsActive: bool"
)


@pytest.fixture(scope="module")
def adx(open_tenant) -> Iterator[Kusto]:
    with open_tenant(scale=0) as tenant, kusto(tenant) as clients:
        yield clients


@pytest.fixture(scope="module")
def configured(adx: Kusto) -> Kusto:
    adx.command(f".create-merge table MigrationConfiguration ({CONFIGURATION})")
    for watermark, active in (("2026-01-01T00:00:00.0000001Z", "true"), ("2026-02-01T00:00:00.0000002Z", "false")):
        adx.command(
            f".append MigrationConfiguration <| datatable({CONFIGURATION})"
            f'["DeviceInfo", "DeviceInfoRaw", "Timestamp", datetime({watermark}), "{watermark}", "Incr", {active}]'
        )
    return adx


def test_a_query_answers_through_the_real_client(adx):
    assert adx.rows("print a = 1, b = 'x'") == [[1, "x"]]


def test_an_unknown_table_is_a_semantic_error_in_the_words_of_kusto(adx):
    with pytest.raises(KustoApiError) as caught:
        adx.rows("Nope | where A == 1")
    assert caught.value.get_api_error().permanent
    assert caught.value.is_semantic_error()
    assert "SEM0100: 'where' operator: Failed to resolve table or column expression named 'Nope'" in str(caught.value)


def test_an_unknown_column_and_a_typing_error_are_told_apart(configured):
    with pytest.raises(KustoApiError, match="Failed to resolve column or scalar expression named 'Nix'"):
        configured.rows("MigrationConfiguration | where Nix == 1")
    with pytest.raises(KustoApiError, match="Syntax error"):
        configured.rows("MigrationConfiguration | wherever")


def test_the_newest_row_by_ingestion_time_comes_from_a_stored_function(configured):
    configured.command(
        ".create-or-alter function with (folder='x') VwLatest() { MigrationConfiguration"
        " | extend At = ingestion_time() | summarize arg_max(At, *) by SourceTable | project-away At }"
    )
    for query in ("VwLatest", "VwLatest()", "['VwLatest']", 'table("VwLatest")'):
        rows = configured.rows(f"{query} | project LastRefreshedTimeInString, IsActive")
        assert rows == [["2026-02-01T00:00:00.0000002Z", False]], query


def test_the_older_scripts_materialized_view_answers_as_a_query_over_active_rows(configured):
    configured.command(
        ".create materialized-view VwOld on table MigrationConfiguration { MigrationConfiguration"
        " | where IsActive == true | summarize arg_max(LastRefreshedTime, *) by SourceTable }"
    )
    for query in ("VwOld", "materialized_view('VwOld')"):
        rows = configured.rows(f"{query} | project SourceTable, LastRefreshedTimeInString")
        assert rows == [["DeviceInfo", "2026-01-01T00:00:00.0000001Z"]]
    assert [row["Name"] for row in configured.command(".show materialized-views")] == ["VwOld"]


def test_a_stored_function_follows_a_table_that_gets_a_column(adx):
    adx.command(".create table Growing (A: string)")
    adx.command(".create-or-alter function Grown() { Growing | summarize arg_max(A, *) by B = A }")
    adx.command(".append Growing <| print 'x'")
    assert adx.rows("Grown | count") == [[1]]
    adx.command(".alter-merge table Growing (C: long)")
    assert {row[0] for row in adx.rows("Grown | getschema | project ColumnName")} >= {"C"}


def test_a_function_with_parameters_is_called_with_arguments(configured):
    configured.command(
        ".create-or-alter function Of(name: string) { MigrationConfiguration | where SourceTable == name }"
    )
    assert configured.rows("Of('DeviceInfo') | count") == [[2]]
    assert configured.rows("Of('x') | count") == [[0]]


def test_a_function_calls_others_with_parameters_and_reads_ingestion_times_in_them(configured):
    configured.command(
        ".create-or-alter function Since(name: string, at: datetime) {"
        " MigrationConfiguration | where SourceTable == name and ingestion_time() >= at }"
    )
    configured.command(".create-or-alter function Today(name: string) { Since(name, ago(1d)) }")
    configured.command('.create-or-alter function Both() { union Today("DeviceInfo"), Since("x", ago(1d)) }')
    for call in ("Today('DeviceInfo')", "Both()", "Both"):
        assert configured.rows(f"{call} | count") == [[2]]
    assert configured.rows("Since('DeviceInfo', now() + 1h) | count") == [[0]]


def test_a_text_that_quotes_the_call_of_a_function_stays_the_text(configured):
    configured.command(".create-or-alter function Quoted() { MigrationConfiguration }")
    said = "look at Quoted() or ['Quoted'], which serves it"
    rows = configured.rows(f'Quoted() | take 1 | project Said = "{said}" | where Said contains "Quoted()"')
    assert rows == [[said]]


def test_hidden_columns_do_not_show_unless_asked_for(configured):
    shown = configured.rows("MigrationConfiguration | where ingestion_time() > ago(1d)")
    assert len(shown) == 2
    assert len(shown[0]) == 7
    assert len(configured.rows("MigrationConfiguration | project ingestion_time()")[0]) == 1
    assert configured.rows("MigrationConfiguration | where ingestion_time() > now() | count") == [[0]]
    assert configured.rows("print 'ingestion_time()'") == [["ingestion_time()"]]


def test_extent_tags_are_readable_per_row(adx):
    adx.command(".create table Tagged (A: string)")
    adx.command(""".append Tagged with (tags='["ingest-by:one"]') <| print 'a'""")
    adx.command(".append Tagged <| print 'b'")
    assert adx.rows("Tagged | where extent_tags() has_cs 'ingest-by:one' | project A") == [["a"]]


def test_query_parameters_are_values_and_never_text_of_the_query(configured):
    query = (
        "declare query_parameters(name: string, since: datetime); MigrationConfiguration | where SourceTable == name"
    )
    since = "datetime(2026-01-01T00:00:00Z)"
    assert len(configured.rows(f"{query} and LastRefreshedTime >= since", name="DeviceInfo", since=since)) == 2
    assert configured.rows(query, name="x' or true | take 5", since=since) == []
    assert configured.rows("declare query_parameters(n: long); print n + 1", n="long(9007199254740992)") == [
        [2**53 + 1]
    ]


def test_too_many_rows_end_in_a_partial_failure(adx):
    properties = ClientRequestProperties()
    properties.set_option("truncationmaxrecords", 3)
    with pytest.raises(KustoMultiApiError, match="E_QUERY_RESULT_SET_TOO_LARGE"):
        adx.client.execute_query(DATABASE, "range x from 1 to 10 step 1", properties)
    properties.set_option("notruncation", True)
    assert len(adx.client.execute_query(DATABASE, "range x from 1 to 10 step 1", properties).primary_results[0]) == 10


def test_another_database_is_not_found(adx):
    with pytest.raises(KustoApiError, match="Database 'other' was not found"):
        adx.client.execute_query("other", "print 1")


def test_a_command_on_the_query_endpoint_is_refused(adx):
    with pytest.raises(KustoApiError, match="Syntax error"):
        adx.client.execute_query(DATABASE, "// a comment\n.show tables")


def test_the_ingest_endpoint_and_the_engine_refuse_each_others_commands(adx):
    with pytest.raises(KustoApiError, match="Syntax error"):
        adx.client.execute_mgmt("NetDefaultDB", ".get ingestion resources")
    with pytest.raises(KustoApiError, match="Syntax error"):
        adx.management.execute_mgmt(DATABASE, ".show tables")
    with pytest.raises(KustoServiceError, match="does not exist"):
        adx.management.execute_query(DATABASE, "print 1")


def test_a_token_of_the_tenant_is_taken_and_another_is_not(open_tenant, monkeypatch):
    with open_tenant(scale=0, require_auth=True) as tenant:
        environment = tenant.environment()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", environment["REQUESTS_CA_BUNDLE"])
        credential = ClientSecretCredential(
            TENANT_ID,
            CLIENT_ID,
            CLIENT_SECRET,
            authority=environment["AZURE_AUTHORITY_HOST"],
            disable_instance_discovery=True,
        )
        uri = environment["ADX_CLUSTER_URI"]
        builders = KustoConnectionStringBuilder
        good = KustoClient(builders.with_azure_token_credential(uri, credential))
        assert good.execute_query(DATABASE, "print 1").primary_results[0][0][0] == 1
        roles = good.execute_mgmt(DATABASE, ".show principal roles").primary_results[0]
        assert roles[0]["PrincipalFQN"] == f"aadapp={CLIENT_ID};{TENANT_ID}"
        bad = KustoClient(builders.with_aad_application_token_authentication(uri, "not-a-token"))
        none = KustoClient(builders.with_no_authentication(uri))
        for client in (bad, none):
            with pytest.raises(KustoServiceError, match="401"):
                client.execute_query(DATABASE, "print 1")
        for client in (good, bad, none):
            client.close()
        credential.close()
        assert all("authorization" not in entry.headers for entry in tenant.log.entries())
