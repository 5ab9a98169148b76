"""Entra ID's stand-in: real msal signs in to it, and its refusals have the real shape."""

import ssl
from datetime import UTC, datetime, timedelta

import jwt
import msal
import pytest
import requests
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa

from defender_adx_pipeline.local.entra import HUNTING_ROLES, Application, TokenIssuer, TokenRefusedError, entra_routes
from defender_adx_pipeline_tests.local.serving import serving

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "aaaaaaaa-0000-0000-0000-000000000001"
GRAPH = "https://graph.microsoft.com"


class Clock:
    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def issuer(clock):
    return TokenIssuer(TENANT, [Application(CLIENT, "right secret")], clock=clock)


@pytest.fixture
def base(issuer):
    with serving(entra_routes(issuer)) as url:
        yield url


def ask(base, tenant=TENANT, **changes):
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT,
        "client_secret": "right secret",
        "scope": f"{GRAPH}/.default",
        **changes,
    }
    sent = {name: value for name, value in form.items() if value is not None}
    return requests.post(f"{base}/{tenant}/oauth2/v2.0/token", data=sent, timeout=10)


def test_a_secret_buys_a_token_for_the_audience_of_its_scope(base, issuer):
    answer = ask(base)
    assert answer.status_code == 200
    body = answer.json()
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 3599
    claims = issuer.check(f"Bearer {body['access_token']}", GRAPH)
    assert (claims.client_id, claims.audience, claims.roles) == (CLIENT, GRAPH, HUNTING_ROLES)


def test_a_cluster_on_loopback_is_an_audience_like_any_other(base, issuer):
    token = ask(base, scope="http://127.0.0.1:8080/.default").json()["access_token"]
    assert issuer.check(f"Bearer {token}", "http://127.0.0.1:8080/").audience == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("changes", "status", "error", "code"),
    [
        ({"tenant": "no-such-tenant"}, 400, "invalid_request", 90002),
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": None}, 401, "invalid_client", 7000218),
        ({"client_id": "nobody"}, 400, "unauthorized_client", 700016),
        ({"scope": "User.Read"}, 400, "invalid_scope", 1002012),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
    ],
)
def test_refusals_have_the_real_shape(base, changes, status, error, code):
    answer = ask(base, **changes)
    assert answer.status_code == status
    body = answer.json()
    assert body["error"] == error
    assert body["error_codes"] == [code]
    assert body["error_description"].startswith(f"AADSTS{code}: ")
    assert {"timestamp", "trace_id", "correlation_id", "error_uri"} <= set(body)
    assert "right secret" not in answer.text


def test_discovery_of_an_unknown_tenant_is_refused(base):
    known = requests.get(f"{base}/{TENANT}/v2.0/.well-known/openid-configuration", timeout=10)
    assert known.json()["token_endpoint"] == f"{base}/{TENANT}/oauth2/v2.0/token"
    unknown = requests.get(f"{base}/other/v2.0/.well-known/openid-configuration", timeout=10)
    assert unknown.status_code == 400
    assert unknown.json()["error_codes"] == [90002]


def test_an_expired_revoked_forged_or_foreign_token_is_refused(issuer, clock):
    token = issuer.issue(CLIENT, f"{GRAPH}/.default")
    assert issuer.check(f"Bearer {token}", [GRAPH, "other"]).client_id == CLIENT
    with pytest.raises(TokenRefusedError, match="audience"):
        issuer.check(f"Bearer {token}", "https://api.security.microsoft.com")
    for header in (None, "", "Bearer ", "Basic abc"):
        with pytest.raises(TokenRefusedError, match="empty"):
            issuer.check(header, GRAPH)
    for forged in (token[:-1] + ("0" if token[-1] != "0" else "1"), "x" + token, "abc"):
        with pytest.raises(TokenRefusedError, match="Signature"):
            issuer.check(f"Bearer {forged}", GRAPH)
    stranger = TokenIssuer(TENANT, [Application(CLIENT, "s")]).issue(CLIENT, GRAPH)
    with pytest.raises(TokenRefusedError, match="Signature"):
        issuer.check(f"Bearer {stranger}", GRAPH)
    issuer.revoke(token)
    with pytest.raises(TokenRefusedError, match="revoked"):
        issuer.check(f"Bearer {token}", GRAPH)
    second = issuer.issue(CLIENT, GRAPH)
    clock.now += timedelta(seconds=3599)
    with pytest.raises(TokenRefusedError, match="expired"):
        issuer.check(f"Bearer {second}", GRAPH)


def assertion(subject=CLIENT, issued_by=CLIENT, life=600):
    now = datetime.now(UTC)
    claims = {"iss": issued_by, "sub": subject, "aud": "x", "exp": now + timedelta(seconds=life)}
    return jwt.encode(claims, rsa.generate_private_key(65537, 2048), algorithm="RS256")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (assertion(), None),
        (assertion(subject="system:serviceaccount:ns:name", issued_by="https://oidc.example"), None),
        (assertion(subject="other", issued_by="other"), 700027),
        (assertion(life=-60), 700024),
        ("not.a.jwt", 50027),
        ("nothing", 50027),
    ],
)
def test_an_assertion_stands_in_for_a_secret(base, given, code):
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    answer = ask(base, client_secret=None, client_assertion=given, client_assertion_type=kind)
    if code is None:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 401
        assert answer.json()["error_codes"] == [code]


def test_real_msal_signs_in_over_tls_and_answers_from_its_cache(issuer, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    options = {"ssl_certfile": str(tmp_path / "server.pem"), "ssl_version": ssl.PROTOCOL_TLS_SERVER}
    with serving(entra_routes(issuer), **options) as url, requests.Session() as session:
        session.verify, session.trust_env = str(tmp_path / "ca.pem"), False
        app = msal.ConfidentialClientApplication(
            CLIENT,
            client_credential="right secret",
            authority=f"{url}/{TENANT}",
            instance_discovery=False,
            http_client=session,
        )
        first = app.acquire_token_for_client(scopes=[f"{GRAPH}/.default"])
        assert issuer.check(f"Bearer {first['access_token']}", GRAPH).client_id == CLIENT
        assert app.acquire_token_for_client(scopes=[f"{GRAPH}/.default"])["token_source"] == "cache"
