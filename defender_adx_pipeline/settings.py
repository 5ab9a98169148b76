"""Every setting, read from the environment once and validated; secrets are masked.

Here: names, types, defaults and what they mean. Not here: what is done with them. An unknown or bad value is one clear
error that names the variable. Durations are ISO 8601 (`PT10M`), `HH:MM:SS` or seconds.
"""

import os
from datetime import date, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

AuthMode = Literal["secret", "certificate", "managed-identity", "workload-identity", "none"]
CloudName = Literal["global", "gcc", "gcc-high", "dod"]
ApiName = Literal["graph", "xdr", "mde"]


class SettingsError(ValueError):
    """Settings that are missing, unknown or bad: one line for each, naming the variable."""


def _bare_url(value: Any) -> str:
    """A base URL without a trailing slash; `http` only for loopback, since tokens travel over it."""
    if not isinstance(value, str):
        raise TypeError("expected text")
    parts = urlsplit(value.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        msg = "expected a base URL such as https://name.region.kusto.windows.net"
        raise ValueError(msg)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        msg = "plain http is accepted for loopback addresses only, since tokens travel over it: use https"
        raise ValueError(msg)
    return value.strip().rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


BaseUrl = Annotated[str, PlainValidator(_bare_url)]


def _seconds(value: Any) -> Any:
    """Digits alone as a number: pydantic takes seconds as a number, and the environment has text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Duration = Annotated[timedelta, BeforeValidator(_seconds)]


class Settings(BaseSettings):
    """The settings of one process. Read them with `load_settings`, so that errors are readable."""

    model_config = SettingsConfigDict(env_prefix="", extra="ignore", frozen=True, env_ignore_empty=True)

    azure_tenant_id: str | None = Field(None, description="Entra tenant of the app registration, a GUID or a domain.")
    azure_client_id: str | None = Field(None, description="Client id of the app registration or managed identity.")
    azure_client_secret: SecretStr | None = Field(None, description="Client secret, for DEFENDER_AUTH=secret.")
    azure_client_certificate_path: Path | None = Field(
        None, description="PEM with private key and certificate, for DEFENDER_AUTH=certificate."
    )
    azure_federated_token_file: Path | None = Field(
        None, description="File with the federated token, for DEFENDER_AUTH=workload-identity."
    )
    azure_authority_host: BaseUrl | None = Field(None, description="Sign-in host; derived from the cloud when absent.")

    defender_auth: AuthMode = Field("secret", description="How to sign in. `none` works on loopback only.")
    defender_cloud: CloudName = Field("global", description="The Microsoft cloud of the tenant.")
    defender_api: ApiName = Field(
        "graph", description="Advanced Hunting API. `xdr` and `mde` are switched off on 1 February 2027."
    )
    defender_api_url: BaseUrl | None = Field(
        None, description="Base URL of the API; derived from the cloud when absent."
    )

    adx_cluster_uri: BaseUrl | None = Field(None, description="Query endpoint of the cluster.")
    adx_ingest_uri: BaseUrl | None = Field(None, description="Data management endpoint; derived when absent.")
    adx_database: str = Field("defender", description="Database that holds the tables.", min_length=1)

    defender_calls_per_minute: int = Field(45, ge=1, description="Hunting calls that the tenant allows per minute.")
    defender_calls_per_hour: int = Field(1500, ge=1, description="Hunting calls that the tenant allows per hour.")
    defender_quota_reserve: float = Field(
        0.1, ge=0, lt=1, description="Share of both limits that is left to analysts, who spend from the same quota."
    )
    defender_quota_store: Path | None = Field(
        None, description="File through which all processes of this host share the quota; derived when absent."
    )
    defender_quota_clock_scale: float = Field(
        1.0, ge=1, description="How much faster than real time the quota windows run. Loopback only: the local tenant."
    )

    defender_automation: bool = Field(
        default=False,
        description=(
            "Whether schedules and sensors run from the start. Without it each waits until it is switched on in the"
            " UI; one that was switched there stays as it was switched."
        ),
    )
    defender_start_date: date = Field(date(2026, 1, 1), description="First daily partition of every asset.")
    defender_settle: Duration = Field(
        timedelta(minutes=10), ge=timedelta(0), description="How old a row must be before its window may be closed."
    )
    defender_overlap: Duration = Field(
        timedelta(hours=4), ge=timedelta(0), description="How far before the watermark a tick looks for late rows."
    )
    defender_slice_rows: int = Field(50_000, ge=1, le=100_000, description="Rows that one call may answer.")
    defender_slice_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, le=45_000_000, description="Bytes that one answer should stay below."
    )
    defender_snapshot_rows: int = Field(
        95_000, ge=1, le=99_999, description="Rows that one call for a snapshot table may answer."
    )
    defender_snapshot_bytes: int = Field(
        47_500_000, ge=1024, le=50_000_000, description="Bytes that one answer for a snapshot table should stay below."
    )
    defender_retention_days: int | None = Field(
        None,
        ge=46,
        description=(
            "Days that raw and typed tables keep a row from when it arrived, set by `bootstrap`; policies stay as they"
            " are when absent. Above the 45 days within which a slice may come again."
        ),
    )
    defender_tables_file: Path | None = Field(None, description="JSON with further tables, or changes to known ones.")

    @model_validator(mode="after")
    def _loopback_only(self) -> Self:
        urls = (self.defender_api_url, self.adx_cluster_uri)
        if all(url is not None and is_loopback(urlsplit(url).hostname or "") for url in urls):
            return self
        if self.defender_auth == "none":
            raise ValueError("DEFENDER_AUTH: 'none' needs loopback addresses in DEFENDER_API_URL and ADX_CLUSTER_URI")
        if self.defender_quota_clock_scale != 1:
            raise ValueError(
                "DEFENDER_QUOTA_CLOCK_SCALE: other than 1 only with loopback addresses in DEFENDER_API_URL"
            )
        return self

    def require(self, *names: str) -> None:
        """Check that settings are there which only some uses need.

        Raises:
            SettingsError: naming every variable that is not set.
        """
        missing = [name.upper() for name in names if getattr(self, name) is None]
        if missing:
            raise SettingsError(f"not set: {', '.join(missing)}. Set them in the environment of the process.")


def load_settings(**overrides: Any) -> Settings:
    """The settings from the environment.

    Raises:
        SettingsError: one line for each variable that is unknown or has a bad value; secrets are not repeated.
    """
    problems = _unknown_variables()
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        problems.extend(map(_problem, error.errors(include_input=False)))
        raise SettingsError("; ".join(problems)) from None
    if problems:
        raise SettingsError("; ".join(problems))
    return settings


def _problem(detail: ErrorDetails) -> str:
    location, message = detail["loc"], detail["msg"].removeprefix("Value error, ")
    if detail["type"].startswith("time_delta"):
        message += "; a duration is written PT10M, 00:10:00 or 600 (seconds)"
    return f"{str(location[0]).upper()}: {message}" if location else message


def _unknown_variables() -> list[str]:
    known = {name.upper() for name in Settings.model_fields}
    ours = ("DEFENDER_", "ADX_")
    return [
        f"{name}: no such setting"
        for name in sorted(os.environ)
        if name.startswith(ours) and name not in known and not name.startswith("DEFENDER_ADX_")
    ]
