"""How many rows each table gets: 30 days of events, and the present state, of a small tenant. Not here: what they hold.

Proportions of the state are those of a tenant of about 55 devices whose counts were published: 25,000 vulnerabilities
and a million nodes of the graph. The two that are far larger there, the graph and the catalogue of vulnerabilities
(320,000 rows), are small here, so that a demo is quick; a benchmark asks for more rows.
"""

from collections.abc import Mapping

from defender_adx_pipeline.local.data.people import DEVICES

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
PER_DEVICE: Mapping[str, int] = {
    "DeviceBaselineComplianceAssessment": 60,
    "DeviceTvmBrowserExtensions": 6,
    "DeviceTvmCertificateInfo": 30,
    "DeviceTvmHardwareFirmware": 5,
    "DeviceTvmInfoGathering": 1,
    "DeviceTvmSecureConfigurationAssessment": 80,
    "DeviceTvmSoftwareEvidenceBeta": 60,
    "DeviceTvmSoftwareInventory": 84,
    "DeviceTvmSoftwareVulnerabilities": 330,
}
"""Rows of the state that each device has. Asked for more rows, such a table gets more devices."""
_CATALOGUE_ROWS: Mapping[str, int] = {
    "DeviceBaselineComplianceAssessmentKB": 40,
    "DeviceBaselineComplianceProfiles": 3,
    "DeviceTvmBrowserExtensionsKB": 400,
    "DeviceTvmInfoGatheringKB": 50,
    "DeviceTvmSecureConfigurationAssessmentKB": 80,
    "DeviceTvmSoftwareVulnerabilitiesKB": 6_000,
    "ExposureGraphEdges": 10_000,
    "ExposureGraphNodes": 8_000,
}
_OTHER_ROWS = 150
"""Tables that a small tenant hardly fills."""


def rows_of(table: str, scale: float = 1.0) -> int:
    """Rows to generate for a table, at least one."""
    of_devices = PER_DEVICE.get(table, 0) * DEVICES
    rows = of_devices or _CATALOGUE_ROWS.get(table) or _ROWS.get(table, _OTHER_ROWS)
    return max(1, round(rows * scale))
