import base64
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from defender_adx_pipeline.defender.auth import CachedTokens, NoTokens, TokenSource, token_source
from defender_adx_pipeline.defender.errors import AuthenticationError, SignInUnavailableError, TransientError
from defender_adx_pipeline.settings import Settings, SettingsError
from defender_adx_pipeline_tests.defender.loopback import Asked, EntraServer, Reply, as_json, entra_refusal, serving

GRAPH = "https://graph.microsoft.com/.default"
ADX = "https://help.kusto.windows.net/.default"
SECRET = "Sup3r~Secret.Value"


def settings_for(entra: EntraServer, **changes: Any) -> Settings:
    given: dict[str, Any] = {
        "azure_tenant_id": "tenant-1",
        "azure_client_id": "client-1",
        "azure_client_secret": SECRET,
        "azure_authority_host": entra.url,
        "defender_auth": "secret",
    }
    return Settings(**given | changes)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def cached(life: float) -> tuple[CachedTokens, Clock, list[str]]:
    clock, asked = Clock(), list[str]()

    def acquire(scope: str) -> dict[str, Any]:
        asked.append(scope)
        return {"access_token": f"token-{len(asked)}", "expires_in": life}

    return CachedTokens(acquire, clock=clock), clock, asked


@pytest.mark.parametrize(("life", "good_for"), [(3600, 3300), (86_400, 86_100), (600, 300), (120, 60)])
def test_a_token_is_renewed_well_before_it_expires(life: float, good_for: float) -> None:
    tokens, clock, asked = cached(life)
    assert tokens.token(GRAPH) == "token-1"
    clock.now = good_for - 1
    assert tokens.token(GRAPH) == "token-1"
    clock.now = good_for + 1
    assert tokens.token(GRAPH) == "token-2"
    assert len(asked) == 2


def test_every_scope_has_its_own_token() -> None:
    tokens, _, asked = cached(3600)
    assert [tokens.token(GRAPH), tokens.token(ADX), tokens.token(GRAPH)] == ["token-1", "token-2", "token-1"]
    assert asked == [GRAPH, ADX]


def test_threads_that_ask_at_once_cause_one_sign_in() -> None:
    tokens, _, asked = cached(3600)
    barrier = threading.Barrier(8)
    got: list[str] = []

    def work() -> None:
        barrier.wait(5)
        got.append(tokens.token(GRAPH))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert got == ["token-1"] * 8
    assert len(asked) == 1


def test_threads_whose_token_was_refused_share_the_new_one() -> None:
    tokens, _, asked = cached(3600)
    refused = tokens.token(GRAPH)
    assert tokens.renew(GRAPH, refused) == "token-2"
    assert tokens.renew(GRAPH, refused) == "token-2"
    assert tokens.renew(GRAPH) == "token-3"
    assert len(asked) == 3


def test_msal_signs_in_with_a_secret_and_the_second_token_is_from_the_cache(entra: EntraServer) -> None:
    tokens = token_source(settings_for(entra))
    assert [tokens.token(GRAPH), tokens.token(GRAPH)] == ["token-1", "token-1"]
    [asked] = entra.token_requests
    assert asked.path == "/tenant-1/oauth2/v2.0/token"
    assert asked.form["grant_type"] == "client_credentials"
    assert asked.form["client_id"] == "client-1"
    assert asked.form["client_secret"] == SECRET
    assert asked.form["scope"] == GRAPH


def test_a_renewal_asks_entra_again_although_msal_has_a_cache(entra: EntraServer) -> None:
    tokens = token_source(settings_for(entra))
    assert tokens.renew(GRAPH, tokens.token(GRAPH)) == "token-2"
    assert tokens.token(ADX) == "token-3"
    assert [asked.form["scope"] for asked in entra.token_requests] == [GRAPH, GRAPH, ADX]


def test_a_secret_that_was_mended_works_at_once(entra: EntraServer) -> None:
    tokens = token_source(settings_for(entra))
    entra.refusal = entra_refusal("invalid_client", "AADSTS7000215: Invalid client secret provided.", 400)
    with pytest.raises(AuthenticationError):
        tokens.token(GRAPH)
    entra.refusal = None
    assert tokens.token(GRAPH) == "token-1"


def test_msal_signs_in_with_a_certificate(entra: EntraServer, tmp_path: Path) -> None:
    certificate = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("app.example", key_type=trustme.KeyType.RSA)
    pem = tmp_path / "app.pem"
    pem.write_bytes(certificate.private_key_pem.bytes() + certificate.cert_chain_pems[0].bytes())
    tokens = token_source(settings_for(entra, defender_auth="certificate", azure_client_certificate_path=pem))
    assert tokens.token(GRAPH) == "token-1"
    form = entra.token_requests[0].form
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    claims = form["client_assertion"].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["iss"] == "client-1"
    assert "client_secret" not in form


def test_the_federated_token_is_read_anew_for_every_token(entra: EntraServer, tmp_path: Path) -> None:
    file = tmp_path / "federated"
    file.write_text("assertion-1\n")
    tokens = token_source(settings_for(entra, defender_auth="workload-identity", azure_federated_token_file=file))
    tokens.token(GRAPH)
    file.write_text("assertion-2\n")
    tokens.renew(GRAPH)
    assert [asked.form["client_assertion"] for asked in entra.token_requests] == ["assertion-1", "assertion-2"]


def test_the_managed_identity_endpoint_gives_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "IMDS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with serving(as_json({"access_token": "mi-1", "expires_in": "3599", "resource": "r", "token_type": "Bearer"})) as s:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", s.url)
        tokens = token_source(Settings(defender_auth="managed-identity", azure_client_id="mi-client"))
        assert [tokens.token(GRAPH), tokens.token(GRAPH)] == ["mi-1", "mi-1"]
        tokens.renew(GRAPH)
        assert len(s.asked) == 2
    assert "resource=https%3A%2F%2Fgraph.microsoft.com&" in s.asked[0].path + "&"
    assert "client_id=mi-client" in s.asked[0].path
    assert s.asked[0].headers["metadata"] == "true"


def test_a_machine_without_managed_identity_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(as_json({"error": "invalid_request", "error_description": "Identity not found"}, 400)) as s:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", s.url)
        with pytest.raises(AuthenticationError, match="Identity not found"):
            token_source(Settings(defender_auth="managed-identity")).token(GRAPH)


def test_without_sign_in_there_is_no_token() -> None:
    tokens = token_source(
        Settings(defender_auth="none", defender_api_url="http://127.0.0.1:1", adx_cluster_uri="http://127.0.0.1:2")
    )
    assert isinstance(tokens, NoTokens)
    assert tokens.token(GRAPH) == tokens.renew(GRAPH) == ""


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(SettingsError, match="AZURE_TENANT_ID, AZURE_CLIENT_ID"):
        token_source(Settings(azure_client_secret=SECRET))
    with pytest.raises(SettingsError, match="AZURE_CLIENT_SECRET"):
        token_source(Settings(azure_tenant_id="t", azure_client_id="c"))


REFUSALS: list[tuple[str, str, list[str]]] = [
    (
        "invalid_client",
        "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent is the client secret value.",
        ["AADSTS7000215", "client secret is wrong", "AZURE_CLIENT_SECRET"],
    ),
    (
        "invalid_client",
        "AADSTS7000222: The provided client secret keys for app 'client-1' are expired.",
        ["AADSTS7000222", "expired"],
    ),
    (
        "unauthorized_client",
        "AADSTS700016: Application with identifier 'client-1' was not found in the directory 'tenant-1'.",
        ["AADSTS700016", "AZURE_CLIENT_ID"],
    ),
    ("invalid_resource", "AADSTS500011: The resource principal was not found.", ["AADSTS500011", "DEFENDER_CLOUD"]),
    ("invalid_grant", "AADSTS99999999: Something new.", ["AADSTS99999999", "Something new"]),
    ("weird", "", ["weird"]),
]


@pytest.mark.parametrize(("error", "description", "says"), REFUSALS)
def test_a_refusal_says_what_it_means_and_what_to_do(
    entra: EntraServer, caplog: pytest.LogCaptureFixture, error: str, description: str, says: list[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    entra.refusal = entra_refusal(error, description, 401)
    with pytest.raises(AuthenticationError) as caught:
        token_source(settings_for(entra)).token(GRAPH)
    assert not isinstance(caught.value, TransientError)
    for part in [*says, GRAPH]:
        assert part in str(caught.value)
    assert_silent(caught.value, caplog)


def test_an_unknown_tenant_is_told(entra: EntraServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AuthenticationError, match=r"no such tenant.*AADSTS90002.*AZURE_TENANT_ID") as caught:
        token_source(settings_for(entra, azure_tenant_id="tenant-2")).token(GRAPH)
    assert_silent(caught.value, caplog)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(503, b"<html>Service Unavailable</html>"),
        Reply(reset=True),
        entra_refusal("temporarily_unavailable", "AADSTS90033: A transient error has occurred.", 400),
    ],
)
def test_a_sign_in_service_that_is_down_is_worth_another_try(
    entra: EntraServer, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    caplog.set_level(logging.DEBUG)
    entra.refusal = reply
    tokens = token_source(settings_for(entra))
    with pytest.raises(SignInUnavailableError) as caught:
        tokens.token(GRAPH)
    assert caught.value.action == "retry"
    assert_silent(caught.value, caplog)
    entra.refusal = None
    assert tokens.token(GRAPH).startswith("token-")


def test_no_network_is_told(entra: EntraServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = token_source(settings_for(entra))
    entra.server.stop()
    with pytest.raises(SignInUnavailableError, match=r"ConnectionError.*Check the network") as caught:
        tokens.token(GRAPH)
    assert_silent(caught.value, caplog)


def test_an_untrusted_sign_in_host_is_told(
    entra: EntraServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with pytest.raises(AuthenticationError, match=r"not trusted.*REQUESTS_CA_BUNDLE") as caught:
        token_source(settings_for(entra)).token(GRAPH)
    assert caught.value.action == "fail"
    assert_silent(caught.value, caplog)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: None, "cannot be read"),
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_a_bad_federated_token_file_is_told(
    entra: EntraServer, tmp_path: Path, write: Callable[[Path], Any], says: str
) -> None:
    file = tmp_path / "federated"
    write(file)
    tokens = token_source(settings_for(entra, defender_auth="workload-identity", azure_federated_token_file=file))
    with pytest.raises(AuthenticationError, match=f"AZURE_FEDERATED_TOKEN_FILE {says}"):
        tokens.token(GRAPH)
    assert entra.token_requests == []


@pytest.mark.parametrize(
    "pem",
    [
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        (
            "-----BEGIN PRIVATE KEY-----\nS3cr3tK3y\n-----END PRIVATE KEY-----\n"
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
        ),
    ],
)
def test_a_bad_certificate_file_is_told_without_the_key(
    entra: EntraServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, pem: str
) -> None:
    file = tmp_path / "app.pem"
    file.write_text(pem)
    tokens = token_source(settings_for(entra, defender_auth="certificate", azure_client_certificate_path=file))
    with pytest.raises(AuthenticationError, match=r"key and certificate|private key or the certificate") as caught:
        tokens.token(GRAPH)
    assert_silent(caught.value, caplog, "S3cr3tK3y")
    assert entra.token_requests == []


def test_no_token_is_in_a_representation(entra: EntraServer) -> None:
    tokens: TokenSource = token_source(settings_for(entra))
    tokens.token(GRAPH)
    assert "token-1" not in repr(tokens)
    assert "token-1" not in repr(vars(tokens))
    assert SECRET not in repr(vars(tokens))


def test_a_token_answer_without_lifetime_is_used_once() -> None:
    tokens, _, asked = cached(0)
    tokens.token(GRAPH)
    tokens.token(GRAPH)
    assert len(asked) == 2


def assert_silent(error: BaseException, caplog: pytest.LogCaptureFixture, *more: str) -> None:
    """Neither the error, nor what it was raised from or during, nor any log line holds a secret."""
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    for secret in (SECRET, "token-1", *more):
        assert secret not in str(error)
        assert secret not in repr(error.args)
        assert secret not in caplog.text


def test_an_answer_that_is_not_oauth_is_told(entra: EntraServer) -> None:
    entra.refusal = as_json({"hello": "world"})
    with pytest.raises(AuthenticationError, match="no reason"):
        token_source(settings_for(entra)).token(GRAPH)


def test_the_sign_in_asks_no_other_host(entra: EntraServer) -> None:
    token_source(settings_for(entra)).token(GRAPH)
    paths: list[Asked] = entra.server.asked
    assert [asked.path.split("?")[0] for asked in paths] == [
        "/tenant-1/v2.0/.well-known/openid-configuration",
        "/tenant-1/oauth2/v2.0/token",
    ]
