"""The Microsoft clouds as data: sign-in host, API addresses and token scopes of each.

Here: what differs between clouds. Not here: which cloud or API is used (`settings`), nor how tokens are asked for
(`auth`). Sources: "National cloud deployments" of Microsoft Graph, "Microsoft Defender XDR for US Government
customers", "Microsoft Defender for Endpoint for US Government customers".
"""

from dataclasses import dataclass

from defender_adx_pipeline.settings import ApiName, CloudName, Settings

_PATHS: dict[ApiName, str] = {
    "graph": "/v1.0/security/runHuntingQuery",
    "xdr": "/api/advancedhunting/run",
    "mde": "/api/advancedqueries/run",
}

HUNTING_PERMISSIONS: dict[ApiName, str] = {
    "graph": "ThreatHunting.Read.All (Microsoft Graph)",
    "xdr": "AdvancedHunting.Read.All (Microsoft Threat Protection)",
    "mde": "AdvancedQuery.Read.All (WindowsDefenderATP)",
}
"""The application permission that each API wants."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud. Addresses have no trailing slash."""

    name: CloudName
    authority_host: str
    graph: str
    xdr: str
    mde: str

    def base_url(self, api: ApiName) -> str:
        """Base address of an Advanced Hunting API in this cloud."""
        return {"graph": self.graph, "xdr": self.xdr, "mde": self.mde}[api]

    def scope(self, api: ApiName) -> str:
        """The scope to ask a token for: every API is its own audience."""
        return f"{self.base_url(api)}/.default"


_CLOUDS: dict[CloudName, Cloud] = {
    "global": Cloud(
        name="global",
        authority_host="https://login.microsoftonline.com",
        graph="https://graph.microsoft.com",
        xdr="https://api.security.microsoft.com",
        mde="https://api.securitycenter.microsoft.com",
    ),
    # GCC signs in and uses Graph in the global cloud; only the two older APIs have hosts of their own.
    "gcc": Cloud(
        name="gcc",
        authority_host="https://login.microsoftonline.com",
        graph="https://graph.microsoft.com",
        xdr="https://api-gcc.security.microsoft.us",
        mde="https://api-gcc.securitycenter.microsoft.us",
    ),
    "gcc-high": Cloud(
        name="gcc-high",
        authority_host="https://login.microsoftonline.us",
        graph="https://graph.microsoft.us",
        xdr="https://api-gov.security.microsoft.us",
        mde="https://api-gov.securitycenter.microsoft.us",
    ),
    "dod": Cloud(
        name="dod",
        authority_host="https://login.microsoftonline.us",
        graph="https://dod-graph.microsoft.us",
        xdr="https://api-gov.security.microsoft.us",
        mde="https://api-gov.securitycenter.microsoft.us",
    ),
}


def cloud(name: CloudName) -> Cloud:
    """The cloud of that name.

    Raises:
        ValueError: there is no such cloud.
    """
    try:
        return _CLOUDS[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a known cloud: one of {', '.join(_CLOUDS)}") from None


def hunting_endpoint(settings: Settings) -> str:
    """The address that hunting queries are posted to: `DEFENDER_API_URL` or the cloud's, plus the API's path."""
    base = settings.defender_api_url or cloud(settings.defender_cloud).base_url(settings.defender_api)
    return base + _PATHS[settings.defender_api]


def hunting_scope(settings: Settings) -> str:
    """The scope of hunting tokens. It follows the cloud, also when `DEFENDER_API_URL` points elsewhere."""
    return cloud(settings.defender_cloud).scope(settings.defender_api)
