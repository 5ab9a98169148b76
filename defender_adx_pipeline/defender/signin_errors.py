"""What Entra ID says when it gives no token, in words that name the setting to look at.

Here: one table of AADSTS codes and the errors built from it. Not here: asking for tokens (`auth`). Source: "Microsoft
Entra authentication and authorization error codes". Credentials never reach these texts.
"""

import re
from typing import Any

from defender_adx_pipeline.defender.classification import is_untrusted, redact
from defender_adx_pipeline.defender.errors import AuthenticationError, QueryContext, SignInUnavailableError

_CODE = re.compile(r"AADSTS(\d+)")

_TENANT = "Check AZURE_TENANT_ID (and DEFENDER_CLOUD)."
_SECRET = "AZURE_CLIENT_SECRET must be the secret's value, not its id"  # noqa: S105 - advice, not a secret

MEANINGS: dict[str, tuple[str, str]] = {
    "90002": ("there is no such tenant", _TENANT),
    "900023": ("the tenant id is neither a GUID nor a domain", _TENANT),
    "900021": ("the tenant id is not valid", _TENANT),
    "700016": (
        "the app registration is not in this tenant",
        "Check AZURE_CLIENT_ID and AZURE_TENANT_ID: they must belong together.",
    ),
    "7000112": ("the app registration is disabled", "Enable the service principal in Entra ID."),
    "7000215": ("the client secret is wrong", f"{_SECRET}."),
    "7000222": ("the client secret has expired", f"Create a new one in the app registration; {_SECRET}."),
    "7000218": ("no credential was sent", "Set AZURE_CLIENT_SECRET, or DEFENDER_AUTH to another way to sign in."),
    "700027": (
        "the certificate is not one of the app's",
        "Upload the certificate of AZURE_CLIENT_CERTIFICATE_PATH to the app registration, or renew it.",
    ),
    "700024": ("the assertion is outside its time of validity", "Check the clock of this machine."),
    "70021": (
        "no federated credential matches the token",
        "Compare issuer, subject and audience of the app's federated credential with AZURE_FEDERATED_TOKEN_FILE.",
    ),
    "700211": (
        "no federated credential matches the token's issuer",
        "Correct the issuer of the app's federated credential.",
    ),
    "700213": (
        "no federated credential matches the token's subject",
        "Correct the subject of the app's federated credential.",
    ),
    "500011": (
        "the API that the token is for is not known in this tenant",
        "Check DEFENDER_CLOUD, DEFENDER_API and ADX_CLUSTER_URI, and that the API was consented to.",
    ),
    "53003": ("Conditional Access blocked the sign-in", "Exclude the service principal or its network location."),
}
"""AADSTS code -> what it means, what to do."""

_OUT_OF_ORDER = {"90033", "90055", "50196", "temporarily_unavailable", "server_error"}


def _context(scope: str) -> QueryContext:
    return QueryContext(purpose=f"token for {scope}")


def refused(result: dict[str, Any], scope: str) -> AuthenticationError:
    """The error for msal's result without a token."""
    said = str(result.get("error_description") or result.get("error") or "")
    return _from_text(said, scope, fallback=str(result.get("error") or "no reason"))


def unreadable(error: Exception, scope: str, endpoint: str) -> AuthenticationError:
    """The error for what msal raises: a tenant without configuration, a bad certificate, an unreadable answer."""
    # msal hides what Entra ID said of a tenant it does not know behind an error of its own.
    said = f"{error} {error.__context__ or ''}"
    if _CODE.search(said):
        return _from_text(said, scope, fallback=type(error).__name__)
    if "HTTP status: 4" in said or "authority configuration" in said.lower():
        return AuthenticationError(
            f"{endpoint} knows no such tenant", todo=_TENANT + " Nothing was read.", context=_context(scope)
        )
    # Not the text: it may quote the key or the answer.
    return AuthenticationError(
        f"{endpoint} gave nothing that msal can use ({type(error).__name__})",
        todo="Check AZURE_AUTHORITY_HOST, AZURE_TENANT_ID and the credential (a PEM file must hold key and"
        " certificate). Nothing was read.",
        context=_context(scope),
    )


def no_answer(error: Exception, scope: str, endpoint: str) -> AuthenticationError:
    """The error for a sign-in service that cannot be reached, is not trusted, or answers 5xx."""
    if is_untrusted(error):
        return AuthenticationError(
            f"the certificate of {endpoint} is not trusted",
            todo="Check the trusted certificates of this machine (REQUESTS_CA_BUNDLE) and any proxy. Nothing was read.",
            context=_context(scope),
        )
    return SignInUnavailableError(
        f"{endpoint} gave no answer ({type(error).__name__})",
        todo="Check the network, proxy and DNS of this machine, and AZURE_AUTHORITY_HOST. Nothing was read.",
        context=_context(scope),
    )


def _from_text(said: str, scope: str, *, fallback: str) -> AuthenticationError:
    match = _CODE.search(said)
    code = match.group(1) if match else ""
    name = f"AADSTS{code}" if code else redact(fallback)
    if code in _OUT_OF_ORDER or fallback in _OUT_OF_ORDER:
        return SignInUnavailableError(
            "Entra ID is out of order for the moment", code=name, context=_context(scope), todo="Nothing was read."
        )
    meaning, todo = MEANINGS.get(
        code, (f'Entra ID refused: "{redact(said)}"', "Look the code up at https://login.microsoftonline.com/error.")
    )
    return AuthenticationError(meaning, code=name, context=_context(scope), todo=f"{todo} Nothing was read.")
