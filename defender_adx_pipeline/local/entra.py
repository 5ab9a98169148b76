"""Microsoft Entra ID as far as client credentials need it: discovery, tokens, and checking them.

Here: who may have a token and whether a token is good for an audience. Not here: what a caller may do with it beyond
the app roles that the token carries (`hunting`, `engine`). Error codes and texts: "Microsoft Entra authentication and
authorization error codes" in Microsoft's docs.
"""

import base64
import hashlib
import hmac
import secrets
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from defender_adx_pipeline.local.source import utc_now

HUNTING_ROLES = ("ThreatHunting.Read.All", "AdvancedHunting.Read.All", "AdvancedQuery.Read.All")
"""App roles (application permissions) of Graph, XDR and MDE for running hunting queries."""

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class TokenRefusedError(Exception):
    """A request without a good token. `status` is 401; the text says why, without the token."""

    status = 401


@dataclass(frozen=True, slots=True)
class Application:
    """One registered app of the tenant."""

    client_id: str
    secret: str
    roles: Sequence[str] = HUNTING_ROLES

    def __repr__(self) -> str:
        return f"Application({self.client_id!r}, roles={tuple(self.roles)!r})"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says."""

    client_id: str
    audience: str
    roles: tuple[str, ...]
    expires: float
    """Seconds since 1970."""


class TokenIssuer:
    """Issues and checks the tokens of one tenant. Thread-safe; tokens are opaque to clients.

    Args:
        tenant_id: the tenant's GUID.
        applications: the registered apps.
        expires_in: life of a token in seconds.
        clock: what time it is.
    """

    def __init__(
        self,
        tenant_id: str,
        applications: Sequence[Application],
        *,
        expires_in: int = 3599,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.tenant_id = tenant_id
        self.expires_in = expires_in
        self.clock = clock
        self._applications = {application.client_id: application for application in applications}
        self._key = secrets.token_bytes(32)
        self._revoked: set[str] = set()
        self._lock = threading.Lock()

    def application(self, client_id: str) -> Application | None:
        """The registered app, if there is one."""
        return self._applications.get(client_id)

    def issue(self, client_id: str, scope: str) -> str:
        """A token for an audience, which is the scope without `/.default`."""
        application = self._applications[client_id]
        payload = {
            "aud": normalised(scope.removesuffix("/.default")),
            "appid": client_id,
            "roles": list(application.roles),
            "exp": self.clock().timestamp() + self.expires_in,
            "tid": self.tenant_id,
            "uti": secrets.token_urlsafe(12),
        }
        body = base64.urlsafe_b64encode(orjson.dumps(payload)).rstrip(b"=")
        return f"{body.decode()}.{self._signature(body)}"

    def check(self, authorization: str | None, audience: str | Sequence[str]) -> Claims:
        """What a request's Authorization header says.

        Args:
            authorization: the header, `Bearer <token>`.
            audience: the audience wanted, or several of which one will do; a trailing `/` makes no difference.

        Raises:
            TokenRefusedError: no token, not one of this tenant, expired, revoked, or for another audience.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenRefusedError("Access token is empty.")
        body, _, signature = token.strip().partition(".")
        if not hmac.compare_digest(self._signature(body.encode()), signature):
            raise TokenRefusedError("Access token validation failure. Signature is invalid.")
        payload = orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        wanted = [audience] if isinstance(audience, str) else audience
        if payload["aud"] not in {normalised(one) for one in wanted}:
            raise TokenRefusedError("Access token validation failure. Invalid audience.")
        if payload["exp"] <= self.clock().timestamp():
            raise TokenRefusedError("Lifetime validation failed, the token is expired.")
        with self._lock:
            if payload["uti"] in self._revoked:
                raise TokenRefusedError("Access token has been revoked.")
        return Claims(payload["appid"], payload["aud"], tuple(payload["roles"]), payload["exp"])

    def revoke(self, token: str) -> None:
        """Refuse a token from now on, although it has not expired."""
        body = token.partition(".")[0]
        payload = orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        with self._lock:
            self._revoked.add(payload["uti"])

    def _signature(self, body: bytes) -> str:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()


def normalised(audience: str) -> str:
    """An audience in the one form that is compared."""
    return audience.rstrip("/").lower()


def entra_routes(issuer: TokenIssuer) -> list[Route]:
    """The endpoints of one authority: OpenID discovery and the v2.0 token endpoint, for any tenant segment."""

    def discover(request: Request) -> Response:
        tenant = request.path_params["tenant"]
        if tenant.lower() != issuer.tenant_id.lower():
            return _unknown_tenant(tenant, issuer.clock())
        base = f"{request.url.scheme}://{request.url.netloc}/{tenant}"
        return JSONResponse(
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "issuer": f"{base}/v2.0",
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
                "response_types_supported": ["code", "id_token"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "tenant_region_scope": "EU",
            }
        )

    async def token(request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        return _token_answer(issuer, request.path_params["tenant"], form)

    return [
        Route("/{tenant}/v2.0/.well-known/openid-configuration", discover, methods=["GET"]),
        Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
    ]


def _token_answer(issuer: TokenIssuer, tenant: str, form: Mapping[str, str]) -> Response:
    now = issuer.clock()
    if tenant.lower() != issuer.tenant_id.lower():
        return _unknown_tenant(tenant, now)
    if form.get("grant_type") != "client_credentials":
        grant = form.get("grant_type", "")
        return _error(
            400, "unsupported_grant_type", 70003, f"The app requested an unsupported grant type '{grant}'.", now
        )
    client_id = form.get("client_id", "")
    application = issuer.application(client_id)
    if application is None:
        text = (
            f"Application with identifier '{client_id}' was not found in the directory '{issuer.tenant_id}'. This can"
            " happen if the application has not been installed by the administrator of the tenant or consented to by"
            " any user in the tenant. You may have sent your authentication request to the wrong tenant."
        )
        return _error(400, "unauthorized_client", 700016, text, now)
    scope = form.get("scope", "")
    if not scope.endswith("/.default"):
        text = f"The provided request must include a 'scope' that ends in /.default for this client. Scope: '{scope}'."
        return _error(400, "invalid_scope", 1002012, text, now)
    refusal = _credential_problem(issuer, application, form)
    if refusal is not None:
        return _error(401, "invalid_client", refusal[0], refusal[1], now)
    return JSONResponse(
        {
            "token_type": "Bearer",
            "expires_in": issuer.expires_in,
            "ext_expires_in": issuer.expires_in,
            "access_token": issuer.issue(client_id, scope),
        },
        headers={"Cache-Control": "no-store, no-cache", "Pragma": "no-cache"},
    )


def _credential_problem(
    issuer: TokenIssuer, application: Application, form: Mapping[str, str]
) -> tuple[int, str] | None:
    if "client_assertion" in form:
        return _assertion_problem(issuer, application, form)
    given = form.get("client_secret", "")
    if not given:
        return 7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
    if not hmac.compare_digest(given.encode(), application.secret.encode()):
        return 7000215, (
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value,"
            f" not the client secret ID, for a secret added to app '{application.client_id}'."
        )
    return None


def _assertion_problem(
    issuer: TokenIssuer, application: Application, form: Mapping[str, str]
) -> tuple[int, str] | None:
    """A signed assertion, from a certificate or a federated identity: well-formed, of this app, in time.

    The signature itself is not verified: the tenant holds no keys of its clients.
    """
    parts = form["client_assertion"].split(".")
    if form.get("client_assertion_type") != _ASSERTION or len(parts) != 3:
        return 50027, "JWT token is invalid or malformed."
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return 50027, "JWT token is invalid or malformed."
    if not isinstance(claims, dict) or "sub" not in claims:
        return 50027, "JWT token is invalid or malformed."
    own = claims.get("iss") == claims["sub"]
    if own and claims["sub"] != application.client_id:
        return 700027, "Client assertion failed. The subject of the assertion does not match the client."
    if float(claims.get("exp", 0)) <= issuer.clock().timestamp():
        return 700024, "Client assertion is not within its valid time range."
    return None


def _unknown_tenant(tenant: str, now: datetime) -> Response:
    text = (
        f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the"
        " correct cloud. Check with your subscription administrator, this may happen if there are no active"
        " subscriptions for the tenant."
    )
    return _error(400, "invalid_request", 90002, text, now)


def error_body(error: str, code: int, text: str, now: datetime) -> dict[str, Any]:
    """The JSON of a refusal: `error` in OAuth's words, `code` the number after AADSTS."""
    trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
    moment = now.strftime("%Y-%m-%d %H:%M:%SZ")
    return {
        "error": error,
        "error_description": (
            f"AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {moment}"
        ),
        "error_codes": [code],
        "timestamp": moment,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": f"https://login.microsoftonline.com/error?code={code}",
    }


def _error(status: int, error: str, code: int, text: str, now: datetime) -> Response:
    return JSONResponse(error_body(error, code, text, now), status_code=status)
