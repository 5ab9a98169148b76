"""How many rows each event table gets in 30 days of a small tenant. Not here: what the rows hold."""

from collections.abc import Mapping

_ROWS: Mapping[str, int] = {
    "DeviceNetworkEvents": 34_000,
    "DeviceProcessEvents": 29_000,
    "DeviceFileEvents": 29_000,
    "DeviceEvents": 27_000,
    "DeviceRegistryEvents": 18_000,
    "DeviceImageLoadEvents": 18_000,
    "DeviceLogonEvents": 11_000,
    "CloudAppEvents": 5_000,
    "IdentityLogonEvents": 4_500,
    "EmailEvents": 4_000,
    "EntraIdSignInEvents": 4_000,
    "GraphAPIAuditEvents": 3_500,
    "EntraIdSpnSignInEvents": 2_500,
    "DeviceInfo": 2_400,
    "DeviceNetworkInfo": 2_400,
    "EmailUrlInfo": 2_000,
    "IdentityQueryEvents": 1_800,
    "DeviceFileCertificateInfo": 1_200,
    "IdentityDirectoryEvents": 1_200,
    "UrlClickEvents": 1_000,
    "MessageEvents": 1_000,
    "EmailAttachmentInfo": 800,
    "CloudAuditEvents": 800,
    "AADSignInEventsBeta": 800,
    "IdentityInfo": 640,
    "CloudProcessEvents": 600,
    "IdentityAccountInfo": 600,
    "CloudDnsEvents": 500,
    "CloudStorageAggregatedEvents": 400,
    "AADSpnSignInEventsBeta": 400,
    "AlertEvidence": 360,
    "MessageUrlInfo": 300,
    "EmailPostDeliveryEvents": 200,
    "AlertInfo": 120,
}
_OTHER_ROWS = 150
"""Tables that a small tenant hardly fills."""


def rows_of(table: str, scale: float = 1.0) -> int:
    """Rows to generate for a table, at least one."""
    return max(1, round(_ROWS.get(table, _OTHER_ROWS) * scale))
