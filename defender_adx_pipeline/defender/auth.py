"""Tokens from Entra ID, cached per scope and renewed before they expire.

Here: one token source for each way to sign in (`DEFENDER_AUTH`), over msal. Not here: what the tokens are for; Advanced
Hunting and ADX both take theirs from here. What Entra's error codes mean is in `signin_errors`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msal  # type: ignore[import-untyped]
import requests
from requests.adapters import HTTPAdapter

from defender_adx_pipeline.defender.clouds import cloud
from defender_adx_pipeline.defender.errors import AuthenticationError
from defender_adx_pipeline.defender.signin_errors import no_answer, refused, unreadable
from defender_adx_pipeline.settings import Settings

_TIMEOUTS = (10.0, 30.0)  # connect, read: seconds
_RENEW_AHEAD = 300.0
_SHORT_LIFE = 600.0

Clock = Callable[[], float]
Credential = dict[str, str | Callable[[], str]]
"""A client credential other than a secret, as msal takes it."""


class TokenSource(Protocol):
    """Gives bearer tokens. Safe to use from several threads."""

    def token(self, scope: str) -> str:
        """A token that is good for some minutes at least; empty when calls go out without one.

        Args:
            scope: for example `https://graph.microsoft.com/.default`, or `<cluster>/.default`.

        Raises:
            AuthenticationError: Entra ID refused; says which setting to look at.
            SignInUnavailableError: Entra ID could not be reached: worth another try.
        """

    def renew(self, scope: str, rejected: str | None = None) -> str:
        """A new token after an API refused one.

        Args:
            scope: as above.
            rejected: the refused token; when another thread has replaced it already, its successor is given.
        """


@dataclass(frozen=True, slots=True)
class _Held:
    token: str = field(repr=False)
    renew_at: float


class NoTokens:
    """For a local tenant that does not ask who is there (`DEFENDER_AUTH=none`)."""

    def token(self, scope: str) -> str:
        """No token: the caller sends no Authorization header."""
        del scope
        return ""

    def renew(self, scope: str, rejected: str | None = None) -> str:
        """There is nothing to renew."""
        del rejected
        return self.token(scope)


class CachedTokens:
    """Keeps one token per scope and asks for the next one before it expires.

    A token is renewed five minutes before its end, or at half its life when it lives shorter than ten minutes, so that
    a query of three minutes does not outlive it.

    Args:
        acquire: asks Entra ID anew and returns msal's result; must not answer from a cache.
        clock: seconds; monotonic, so that a clock that is set does not keep a dead token alive.
    """

    def __init__(self, acquire: Callable[[str], dict[str, Any]], *, clock: Clock = time.monotonic) -> None:
        self._acquire = acquire
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def token(self, scope: str) -> str:
        """See `TokenSource.token`."""
        with self._lock:
            held = self._held.get(scope)
            if held is not None and self._clock() < held.renew_at:
                return held.token
            return self._ask(scope)

    def renew(self, scope: str, rejected: str | None = None) -> str:
        """See `TokenSource.renew`."""
        with self._lock:
            held = self._held.get(scope)
            if held is not None and rejected and held.token != rejected:
                return held.token
            return self._ask(scope)

    def _ask(self, scope: str) -> str:
        asked_at = self._clock()
        result = self._acquire(scope)
        token = result.get("access_token")
        if not token:
            raise refused(result, scope)
        life = float(result.get("expires_in") or 0)
        ahead = _RENEW_AHEAD if life >= _SHORT_LIFE else life / 2
        self._held[scope] = _Held(str(token), asked_at + life - ahead)
        return str(token)


class _SignInSession(requests.Session):
    """msal sets no time-outs of its own, and a .netrc must not add credentials to token requests."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request
        for prefix in ("https://", "http://"):
            self.mount(prefix, HTTPAdapter(max_retries=1))

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", _TIMEOUTS)
        return super().request(*args, **kwargs)


class AppTokens(CachedTokens):
    """Client credentials of an app registration: secret, certificate or federated token.

    Args:
        tenant: Entra tenant id or domain.
        client_id: of the app registration.
        credential: read anew whenever a token is asked for, so that rotated files are picked up.
        authority_host: base address of the sign-in service.
        known_host: whether msal knows the host; where it does not, its instance discovery would ask the public cloud.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        tenant: str,
        client_id: str,
        credential: Callable[[], str | Credential],
        authority_host: str,
        known_host: bool,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(self._sign_in, clock=clock)
        self._authority = f"{authority_host}/{tenant}"
        self._client_id = client_id
        self._credential = credential
        self._known_host = known_host

    def _sign_in(self, scope: str) -> dict[str, Any]:
        credential = self._credential()
        # A new application and session each time, about once an hour: msal would answer a forced renewal from its
        # token cache, and repeats a 400 from its HTTP cache for a minute after the cause was mended.
        with _SignInSession() as session:
            try:
                application = msal.ConfidentialClientApplication(
                    self._client_id,
                    client_credential=credential,
                    authority=self._authority,
                    instance_discovery=None if self._known_host else False,
                    http_client=session,
                )
                return dict(application.acquire_token_for_client(scopes=[scope]) or {})
            # "from None": the cause carries the request, whose body holds the credential.
            except (requests.RequestException, msal.exceptions.MsalServiceError) as error:
                raise no_answer(error, scope, self._authority) from None
            except (ValueError, TypeError, RuntimeError, KeyError) as error:
                raise unreadable(error, scope, self._authority) from None


class ManagedIdentityTokens(CachedTokens):
    """The managed identity of the Azure machine, container or function that this runs on.

    Args:
        client_id: of a user-assigned identity; None for the system-assigned one.
        clock: seconds.
    """

    def __init__(self, client_id: str | None, *, clock: Clock = time.monotonic) -> None:
        super().__init__(self._sign_in, clock=clock)
        self._client_id = client_id

    def _sign_in(self, scope: str) -> dict[str, Any]:
        identity: Any = (
            msal.UserAssignedManagedIdentity(client_id=self._client_id)
            if self._client_id
            else msal.SystemAssignedManagedIdentity()
        )
        with _SignInSession() as session:
            try:
                client = msal.ManagedIdentityClient(identity, http_client=session)
                return dict(client.acquire_token_for_client(resource=scope.removesuffix("/.default")) or {})
            except (requests.RequestException, msal.exceptions.MsalServiceError) as error:
                raise no_answer(error, scope, "the managed identity endpoint") from None
            except (ValueError, TypeError, RuntimeError, KeyError) as error:
                raise unreadable(error, scope, "the managed identity endpoint") from None


def token_source(settings: Settings) -> TokenSource:
    """The token source that `DEFENDER_AUTH` names.

    Raises:
        SettingsError: a variable that this way to sign in needs is not set.
    """
    if settings.defender_auth == "none":
        return NoTokens()
    if settings.defender_auth == "managed-identity":
        return ManagedIdentityTokens(settings.azure_client_id)
    settings.require("azure_tenant_id", "azure_client_id")
    cloud_host = cloud(settings.defender_cloud).authority_host
    authority_host = settings.azure_authority_host or cloud_host
    return AppTokens(
        tenant=str(settings.azure_tenant_id),
        client_id=str(settings.azure_client_id),
        credential=_credential(settings),
        authority_host=authority_host,
        known_host=urlsplit(authority_host).hostname in msal.authority.WELL_KNOWN_AUTHORITY_HOSTS,
    )


def _credential(settings: Settings) -> Callable[[], str | Credential]:
    if settings.defender_auth == "secret":
        settings.require("azure_client_secret")
        secret = settings.azure_client_secret
        return lambda: secret.get_secret_value() if secret else ""
    if settings.defender_auth == "certificate":
        settings.require("azure_client_certificate_path")
        pem_file = Path(str(settings.azure_client_certificate_path))
        return lambda: _certificate(pem_file)
    settings.require("azure_federated_token_file")
    token_file = Path(str(settings.azure_federated_token_file))
    # Kubernetes replaces the file about hourly, so it is read for every token.
    return lambda: _assertion(token_file)


def _assertion(token_file: Path) -> Credential:
    assertion = _read(token_file, "AZURE_FEDERATED_TOKEN_FILE")
    return {"client_assertion": lambda: assertion}  # msal warns of plain text, since it may grow old


def _certificate(pem_file: Path) -> Credential:
    pem = _read(pem_file, "AZURE_CLIENT_CERTIFICATE_PATH")
    if "PRIVATE KEY-----" not in pem or "-----BEGIN CERTIFICATE-----" not in pem:
        raise AuthenticationError(
            "the certificate file lacks the private key or the certificate",
            todo="AZURE_CLIENT_CERTIFICATE_PATH must name one PEM file with both. Nothing was sent.",
        )
    return {"private_key": pem, "public_certificate": pem}


def _read(file: Path, variable: str) -> str:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AuthenticationError(
            f"the file of {variable} cannot be read ({type(error).__name__})",
            todo=f"Check that {file} exists, is readable for this process and is text. Nothing was sent.",
        ) from None
    if not text:
        raise AuthenticationError(
            f"the file of {variable} is empty", todo=f"Check who writes {file}. Nothing was sent."
        )
    return text
