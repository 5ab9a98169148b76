"""What an azure client's error is turned into, and that no secret survives it."""

import pytest
import requests
import urllib3.exceptions
from azure.kusto.data.exceptions import (
    KustoApiError,
    KustoAuthenticationError,
    KustoClosedError,
    KustoMultiApiError,
    KustoNetworkError,
    KustoServiceError,
)
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.adx.errors import (
    AdxAuthenticationError,
    AdxError,
    AdxPermissionError,
    AdxUnreachableError,
    IngestionFailedError,
    MissingObjectError,
    PartialResultError,
    QueryFailedError,
    RecordTooLargeError,
    translate,
    without_secrets,
)

WHAT = "query in database defender (T)"


def answered(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


def api_error(status: int, description: str, **fields: object) -> KustoApiError:
    error = {"code": "Code", "message": "m", "@message": description, **fields}
    return KustoApiError({"error": error}, http_response=answered(status))


@pytest.mark.parametrize(
    ("description", "code"),
    [
        ("Entity ID 'T' of kind 'Table' was not found.", "BadRequest_EntityNotFound"),
        ("Database 'x' could not be found.", "BadRequest_DatabaseNotExist"),
        (
            "Semantic error: SEM0100: 'where' operator: Failed to resolve table or column expression named 'T'",
            "General",
        ),
        ("Semantic error: SEM0260: Unknown function: 'VwLatestMigrationConfiguration'.", "General"),
        ("Entity ID 'DynamicJsonMap' of kind 'MappingPersistent' was not found.", "MappingReferenceWasNotFound"),
    ],
)
def test_what_is_missing_is_made_by_bootstrap(description, code):
    error = translate(api_error(400, description, code=code), WHAT)
    assert isinstance(error, MissingObjectError)
    assert "defender-adx bootstrap" in str(error)
    assert str(error).startswith(WHAT)


def test_a_missing_role_is_named_with_the_command_that_grants_it():
    error = translate(api_error(403, "Principal is not authorized"), WHAT)
    assert isinstance(error, AdxPermissionError)
    assert "Database Viewer and Database Ingestor" in str(error)
    assert ".add database" in str(error)


@pytest.mark.parametrize(
    ("status", "permanent", "expected"),
    [
        (400, True, QueryFailedError),
        (500, True, QueryFailedError),
        (400, False, AdxUnreachableError),
        (503, False, AdxUnreachableError),
        (503, None, AdxUnreachableError),
        (400, None, QueryFailedError),
    ],
)
def test_the_services_own_word_on_permanence_decides(status, permanent, expected):
    fields = {} if permanent is None else {"@permanent": permanent}
    assert type(translate(api_error(status, "it went wrong", **fields), WHAT)) is expected


def test_a_result_that_is_too_large_for_one_answer_says_that_a_smaller_window_helps():
    error = translate(api_error(400, "Query result set has exceeded the internal (80DA0003)"), WHAT)
    assert isinstance(error, PartialResultError)
    assert error.too_large
    other = translate(
        KustoMultiApiError([{"OneApiErrors": [{"error": {"code": "E", "message": "m", "@message": "d"}}]}]), WHAT
    )
    assert isinstance(other, PartialResultError)
    assert not other.too_large


@pytest.mark.parametrize(
    ("cause", "never_ran"),
    [
        (requests.ConnectTimeout(), True),
        (requests.exceptions.SSLError("certificate"), True),
        (requests.ReadTimeout(), False),
        (requests.ConnectionError(urllib3.exceptions.ProtocolError("aborted")), False),
        (
            requests.ConnectionError(
                urllib3.exceptions.MaxRetryError(
                    None, "/", urllib3.exceptions.NameResolutionError("nowhere", None, OSError("no such name"))
                )
            ),
            True,
        ),
        (requests.ConnectionError(), False),
    ],
)
def test_only_a_connection_that_never_came_about_is_known_to_have_done_nothing(cause, never_ran):
    network = KustoNetworkError("https://help.kusto.windows.net/v2/rest/query")
    network.__cause__ = cause
    error = translate(network, WHAT)
    assert isinstance(error, AdxUnreachableError)
    assert error.never_ran is never_ran
    assert "help.kusto.windows.net" in str(error)


def test_a_token_that_cannot_be_had_is_an_authentication_error():
    error = translate(KustoAuthenticationError("callback", ValueError("wrong secret"), authority="x"), WHAT)
    assert isinstance(error, AdxAuthenticationError)
    assert "wrong secret" in str(error)


def test_errors_without_a_class_of_their_own_keep_their_text():
    assert type(translate(KustoClosedError(), WHAT)) is QueryFailedError
    assert type(translate(KustoServiceError("no response"), WHAT)) is AdxUnreachableError
    assert type(translate(RuntimeError("bug"), WHAT)) is AdxError
    ours = RecordTooLargeError("TRaw", "ReportId 5", 2_000_000, 1_048_576)
    assert translate(ours, WHAT) is ours


@pytest.mark.parametrize("status", [400, 403, 404, 503])
@pytest.mark.parametrize(
    "said", ["Entity ID 'T' of kind 'Table' was not found.", "No.", "query limit: E_RUNAWAY_QUERY."]
)
def test_what_the_service_said_keeps_no_full_stop_within_the_sentence(status, said):
    assert ".." not in str(translate(api_error(status, said), WHAT))


def test_a_failed_ingestion_names_table_slices_and_what_was_kept():
    error = IngestionFailedError("TRaw", {f"{number:032x}": "BadRequest_InvalidBlob: x" for number in range(5)})
    assert "TRaw: ADX did not load 5 slice(s)" in str(error)
    assert "and 2 more" in str(error)
    assert "the next run loads them again" in str(error)
    assert len(error.reasons) == 5


@given(
    st.sampled_from(["https://a.blob.core.windows.net/c/b", "/c/b", "https://a.queue.core.windows.net/q/messages"]),
    st.lists(st.sampled_from(["sv=2024-11-04", "se=2026-11-25T00%3A00%3A00Z", "sp=rw", "timeout=600"]), max_size=4),
    st.text(st.sampled_from("abcXYZ019%2B3D+/"), min_size=8),
    st.text(st.sampled_from("abc =,;()'"), max_size=20),
)
def test_no_signature_survives(url, others, signature, around):
    signature = f"SECRET{signature}"
    query = "&".join([*others, f"sig={signature}"])
    text = f"{around} {url}?{query} {around} (Caused by x) ?{query}&x=1 Bearer eyJ{signature}"
    assert "SECRET" not in without_secrets(text)
    assert "Caused by x" in without_secrets(text)
