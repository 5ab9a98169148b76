"""What a column of a snapshot table holds, as SQL over one generated row, and what of it changes from day to day.

Here: keys, which are unique by construction, and columns that make a table what it is. Not here: columns that a rule by
name or type serves as well (`values`), how many rows there are, and how they come and go (`snapshots`).

A rule sees `i`, the row's number in its table, `d`, its device, `k`, its number on that device (the same as `i` in a
table without devices), and what `values` describes. Things that several tables speak of, such as a CVE or a node of the
graph, depend on their number alone, so that the tables fit together.
"""

from collections.abc import Callable, Mapping

from defender_adx_pipeline.local.data import people
from defender_adx_pipeline.local.data.sql import DAY, draw, guid_text, instant, json_bag, json_text, number, pick, salt

_SOFTWARE = (
    ("microsoft", "edge_chromium-based"), ("microsoft", "windows_11"), ("google", "chrome"), ("mozilla", "firefox"),
    ("adobe", "acrobat_reader_dc"), ("7-zip", "7-zip"), ("python", "python"), ("openssl", "openssl"),
    ("videolan", "vlc_media_player"), ("oracle", "jre"), ("müller_&_söhne", 'zeit"erfassung'), ("apple", "macos"),
)  # fmt: skip
_NODES = (
    "device", "device", "microsoft.compute/virtualmachines", "user", "user", "group", "managedidentity",
    "serviceprincipal", "microsoft.storage/storageaccounts", "ip_address", "container-image", "Cve",
)  # fmt: skip
_NAMES = ("srv", "größe", 'user "x"', "it's", "a\\b")
_CATEGORIES: Mapping[str, str] = {
    "device": '["compute","device"]',
    "microsoft.compute/virtualmachines": '["compute","virtual_machine","environmentAzure"]',
    "user": '["identity"]',
    "group": '["identity","group"]',
    "managedidentity": '["identity"]',
    "serviceprincipal": '["identity"]',
    "microsoft.storage/storageaccounts": '["data","storage"]',
    "ip_address": '["ip_address"]',
    "container-image": '["container_image"]',
    "Cve": "[]",
}
_EDGES = ("has permissions to", "can authenticate as", "affecting", "member of", "routes traffic to", "runs on")
_BROWSERS = ("edge", "chrome", "firefox")
_STORES = ("Local Machine\\My", "Local Machine\\Root", "Local Machine\\CA", "Aktueller Benutzer\\Büro")
_COMPONENTS = ("Bios", "Processor", "Hardware", "TPM", "Management engine")
_MAKERS = ("Contoso GmbH", "Fabrikam, Inc.", "Wingtip")
_SEVERITIES = ("Low", "Medium", "Medium", "High", "High", "Critical")
_FLAW = (
    "Summary: a flaw in the way the component treats objects in memory lets a local attacker run code with higher"
    " rights.\nImpact: an attacker who succeeds could install programs; view, change or delete data.\nRemediation:"
    ' apply the latest patches of the vendor ("hotfix" or „Sammelupdate“).'
)
_LONG_TEXT = (
    _FLAW,
    "An improper check of a path (C:\\Temp\\..\\) allows reading of files outside the folder.",
    "",
    "整数オーバーフロー: the length is not checked before it is used.",
)
_GRAPH_NODES = 0.8
"""Nodes for each edge."""


def device_id(device: str) -> str:
    """SQL: a device's id by its number; the ids of `people` go on without end."""
    return f"sha1(concat('device|', {device}))"


def device_name(device: str) -> str:
    """SQL: a device's name by its number."""
    known = pick(people.DEVICE_NAMES, device)
    return f"CASE WHEN {device} < {people.DEVICES} THEN {known} ELSE concat('ws-', {device}, '.{people.DOMAIN}') END"


def assessed(device: str, now_ticks: int) -> str:
    """SQL: ticks of the last assessment of a device: today, one in twenty in the last weeks, few before 30 days.

    Devices that are switched off keep the state that they had. Graph's default timespan hides the last of them.
    """
    recent = number(device, salt("assessed"), DAY * 5 // 6)
    old = f"CASE WHEN {device} % 60 = 41 THEN {34 * DAY} WHEN {device} % 20 = 7 THEN {12 * DAY} ELSE 0 END"
    return f"({now_ticks} - {recent} - {old})"


def rules(table: str, seed: int, rows: int) -> Mapping[str, str]:
    """SQL by column, for the columns of a snapshot table that have a rule of their own.

    Args:
        table: its name.
        seed: other seeds give other rows.
        rows: rows of the table, for references to another one of the same size.
    """

    def own(name: str, below: int, index: str = "i") -> str:
        return number(index, salt(seed, table, name), below)

    if table == "ExposureGraphNodes":
        return _nodes(own)
    if table == "ExposureGraphEdges":
        return _edges(own, max(1, round(rows * _GRAPH_NODES)))
    special: Mapping[str, Mapping[str, str]] = {**_of_devices(own), **_catalogues(own)}
    found = dict(special.get(table, {}))
    if table in ("DeviceTvmInfoGathering", "DeviceTvmSecureConfigurationAssessment"):
        found["Timestamp"] = instant("ts")
    if not table.endswith(("KB", "Profiles")):
        found |= {
            "DeviceId": device_id("d"),
            "DeviceName": device_name("d"),
            "OSVersion": pick(("10.0.22631.3880", "10.0.20348.2582", "14.5"), "d"),
            "OSArchitecture": pick(("x64", "x64", "ARM64"), "d"),
        }
    return found


_Own = Callable[..., str]


def _cve(cve: str) -> str:
    return f"concat('CVE-', 2012 + {cve} % 15, '-', 1000 + {cve})"


def _severity(cve: str) -> str:
    return pick(_SEVERITIES, number(cve, salt("cve severity"), 60))


def _software(software: str, device: str) -> dict[str, str]:
    """Vendor, name and version: one version of a piece of software on one device."""
    rank = f"({software} // {len(_SOFTWARE)})"
    name = pick([name for _, name in _SOFTWARE], software)
    drawn = number(f"concat({software}, '|', {device})", salt("version"), 4)
    return {
        "SoftwareVendor": pick([vendor for vendor, _ in _SOFTWARE], software),
        "SoftwareName": f"CASE WHEN {rank} = 0 THEN {name} ELSE concat({name}, '_', {rank}) END",
        "SoftwareVersion": f"concat(1 + {software} % 30, '.', {drawn}, '.0.', 100 + {software} * 7 % 900)",
    }


def _of_devices(own: _Own) -> dict[str, Mapping[str, str]]:
    spread = f"(2 * k + {own('spread', 2)})"
    cve = f"(3 * k + {own('cve', 3)})"
    extension = f"(4 * k + {own('extension', 4)})"
    yes_no = f"{own('flag', 3)} > 0"
    return {
        "DeviceBaselineComplianceAssessment": {
            "ConfigurationId": "concat('baseline-', 1000 + k // 2)",
            "ProfileId": guid_text("profile", "k % 2"),
            "IsCompliant": yes_no,
            "Source": "CAST('[\"HKLM\\\\Software\\\\Policies\"]' AS JSON)",
        },
        "DeviceTvmBrowserExtensions": {
            **_extension(extension),
            "ExtensionVersion": f"concat({own('version', 40)}, '.', {own('minor', 10)}, '.1')",
            "IsActivated": f"CASE WHEN {yes_no} THEN 'True' ELSE 'False' END",
        },
        "DeviceTvmCertificateInfo": {
            "Thumbprint": f"sha1(concat('certificate|', {spread}))",
            "Path": pick(_STORES, spread),
            "IssuedTo": f"CAST({_party(spread)} AS JSON)",
            "IssuedBy": f"CAST({_party(f'({spread} % 7)')} AS JSON)",
            "FriendlyName": f"concat('Zertifikat „', {spread}, '“')",
            "SignatureAlgorithm": pick(("sha256RSA", "sha1RSA", "ecdsa-with-SHA384"), spread),
            "KeySize": pick(("2048", "4096", "384"), spread),
            "IssueDate": _date_text(spread, 2019),
            "ExpirationDate": _date_text(spread, 2026),
        },
        "DeviceTvmHardwareFirmware": {
            "ComponentType": pick(_COMPONENTS, "k"),
            "Manufacturer": pick(_MAKERS, "d"),
            "ComponentName": f"concat({pick(_COMPONENTS, 'k')}, ' model ', k)",
            "ComponentVersion": f"concat('1.', {own('version', 30)})",
        },
        "DeviceTvmInfoGathering": {"LastSeenTime": instant("ts + 1234567")},
        "DeviceTvmSecureConfigurationAssessment": {
            **_configuration("k"),
            "IsCompliant": yes_no,
            "IsApplicable": f"{own('applicable', 20)} > 0",
            "Context": f'CASE WHEN {own("context", 4)} = 0 THEN CAST(\'[["Büro","1"],["x"]]\' AS JSON) END',
            "IsExpectedUserImpact": f"CASE WHEN {own('impact', 3)} = 0 THEN {yes_no} END",
        },
        "DeviceTvmSoftwareEvidenceBeta": {
            **_software(spread, "d"),
            "RegistryPaths": f"CAST(concat('[', {json_text(draw(people.REGISTRY, 3, 'i'))}, ']') AS JSON)",
            "DiskPaths": f"CAST(concat('[', {json_text(draw(people.FILES, 5, 'i'))}, ',\"C:\\\\ü\"]') AS JSON)",
            "LastSeenTime": _date_text("i", 2020),
        },
        "DeviceTvmSoftwareInventory": {
            **_software(spread, "d"),
            "EndOfSupportStatus": f"CASE WHEN {spread} % 5 = 0 THEN 'EOS Version' ELSE '' END",
            "EndOfSupportDate": f"CASE WHEN {spread} % 5 = 0 THEN {instant(f'ts - {spread} * {DAY}')} END",
            "ProductCodeCpe": f"CASE WHEN {spread} % 3 > 0 THEN concat('cpe:2.3:a:x:', {spread}, ':*') ELSE '' END",
        },
        "DeviceTvmSoftwareVulnerabilities": {
            **_software(f"({cve} % 168)", "d"),
            "CveId": _cve(cve),
            "VulnerabilitySeverityLevel": _severity(cve),
            "RecommendedSecurityUpdate": f"CASE WHEN {cve} % 3 > 0 THEN concat('Update ', {cve} % 40) ELSE '' END",
            "RecommendedSecurityUpdateId": f"CASE WHEN {cve} % 3 > 0 THEN CAST(5000000 + {cve} AS VARCHAR) ELSE '' END",
            "CveTags": f"CAST(CASE WHEN {cve} % 50 = 0 THEN '[\"ZeroDay\"]' ELSE '[]' END AS JSON)",
        },
    }


def _catalogues(own: _Own) -> dict[str, Mapping[str, str]]:
    software = number("i", salt("affected"), 168)
    published = f"ts - {own('published', 3000 * DAY)}"
    affected = json_text(f"concat({_software(software, '0')['SoftwareVendor']}, ':', {software})")
    return {
        "DeviceBaselineComplianceAssessmentKB": {
            "ConfigurationId": "concat('baseline-', 1000 + i)",
            "ConfigurationDescription": pick(_LONG_TEXT, "i"),
            "BenchmarkProfileLevels": 'CAST(\'["Level 1 (L1)","Level 2 (L2)"]\' AS JSON)',
        },
        "DeviceBaselineComplianceProfiles": {
            "ProfileId": guid_text("profile", "i"),
            "ProfileName": "concat('Profil „', i, '“')",
            "OSPlatform": "CAST('[\"Windows11\"]' AS JSON)",
        },
        "DeviceTvmBrowserExtensionsKB": {
            **_extension("(i // 5)"),
            "PermissionId": pick(("tabs", "cookies", "<all_urls>", "storage", "nativeMessaging"), "i"),
            "ExtensionVersion": 'CAST(\'["1.0","1.2.3"]\' AS JSON)',
            "IsPermissionRequired": "CASE WHEN i % 2 = 0 THEN 'True' ELSE 'False' END",
        },
        "DeviceTvmInfoGatheringKB": {
            "IgId": "concat('ig-', 1 + i)",
            "FieldName": "concat('Feld', i)",
            "Categories": "CAST('[\"antivirus\"]' AS JSON)",
        },
        "DeviceTvmSecureConfigurationAssessmentKB": {
            **_configuration("i"),
            "ConfigurationDescription": pick(_LONG_TEXT, "i"),
            "RiskDescription": pick(_LONG_TEXT, "(i + 1)"),
        },
        "DeviceTvmSoftwareVulnerabilitiesKB": {
            "CveId": _cve("i"),
            "CvssScore": f"concat({number('i', salt('cvss'), 6)} + 4, '.', {number('i', salt('cvss tenth'), 10)})",
            "IsExploitAvailable": f"{own('exploit', 9)} = 0",
            "VulnerabilitySeverityLevel": _severity("i"),
            "PublishedDate": f"CAST(date_trunc('day', {instant(published)}) AS TIMESTAMP_NS)",
            "VulnerabilityDescription": f"concat({pick(_LONG_TEXT, own('text', 4))}, ' #', i)",
            "AffectedSoftware": f"CAST(concat('[', {affected}, ']') AS JSON)",
        },
    }


def _configuration(configuration: str) -> dict[str, str]:
    return {
        "ConfigurationId": f"concat('scid-', 20 + {configuration})",
        "ConfigurationImpact": f"{configuration} % 20 / 2.0",
        "ConfigurationCategory": pick(("OS", "Security controls", "Network", "Accounts"), configuration),
        "ConfigurationSubcategory": pick(("Antivirus", "Firewall", "Größe", ""), f"({configuration} // 4)"),
    }


def _extension(extension: str) -> dict[str, str]:
    identifier = f"translate(md5(concat('extension|', {extension})), '0123456789abcdef', 'abcdefghijklmnop')"
    return {
        "BrowserName": pick(_BROWSERS, extension),
        "ExtensionId": identifier,
        "ExtensionName": f"concat('Add-on ', {extension})",
        "ExtensionRisk": pick(("Low", "Medium", "High", "Critical"), extension),
    }


def _party(party: str) -> str:
    return json_bag(
        OrganizationName=json_text(pick(_MAKERS, party)), CommonName=json_text(f"concat('cn \"', {party}, '\"')")
    )


def _date_text(index: str, year: int) -> str:
    """SQL: an instant in a column of type string."""
    return (
        f"concat({year} + {index} % 6, '-0', 1 + {index} % 9, '-', 10 + {index} % 19, 'T0', {index} % 10, ':15:00.',"
        f" {index} % 1000, 'Z')"
    )


def _node(node: str, which: str) -> str:
    """SQL for an attribute of a node by its number: Id, Label, Name or Categories."""
    if which == "Id":
        return guid_text("node", node)
    label = f"(hash({node}, {salt('label')}) % {len(_NODES)})"
    if which == "Label":
        return pick(_NODES, label)
    if which == "Categories":
        return f"CAST({pick([_CATEGORIES[name] for name in _NODES], label)} AS JSON)"
    return f"concat({pick(_NAMES, node)}, '-', {node})"


def _nodes(own: _Own) -> Mapping[str, str]:
    raw = json_bag(
        deviceName=json_text("concat('ws-', i)"),
        osVersion=json_text(pick(people.DEVICE_SYSTEMS, "i")),
        exposureScore=json_text(pick(("Low", "Medium", "High"), own("score", 3))),
        criticalityLevel=f'concat(\'{{"criticalityLevel":\', {own("level", 4)}, \',"ruleNames":["Größe"]}}\')',
        isInternetFacing=f"CASE WHEN {own('facing', 8)} = 0 THEN 'true' ELSE 'false' END",
        lastSeen=f"concat('\"2026-11-', 10 + {own('day', 15)}, 'T01:02:03.', {own('ticks', 9_999_999)}, 'Z\"')",
        bytes=own("bytes", 1 << 60),
        path='\'"C:\\\\Büro\\\\\\"x\\""\'',
    )
    entity = json_bag(type=json_text(_node("i", "Label")), id=json_text(guid_text("entity", "i")))
    return {
        **{f"Node{which}": _node("i", which) for which in ("Id", "Label", "Name")},
        "Categories": _node("i", "Categories"),
        "NodeProperties": f"CAST(concat('{{\"rawData\":', {raw}, '}}') AS JSON)",
        "EntityIds": f'CAST(concat(\'[\', {entity}, \',{{"type":"AzureResourceId","id":"/x/\', i, \'"}}]\') AS JSON)',
    }


def _edges(own: _Own, nodes: int) -> Mapping[str, str]:
    found = {"EdgeId": guid_text("edge", "i"), "EdgeLabel": pick(_EDGES, own("label", len(_EDGES)))}
    for side in ("Source", "Target"):
        for which in ("Id", "Label", "Name", "Categories"):
            found[f"{side}Node{which}"] = _node(own(side, nodes), which)
    rights = json_bag(roles='\'["Owner","Größe"]\'', level=own("level", 9), inherited="'true'")
    found["EdgeProperties"] = (
        f"CASE WHEN {own('bare', 3)} > 0 THEN CAST(concat('{{\"rawData\":', {rights}, '}}') AS JSON) END"
    )
    return found


_REVISION = "concat('Revision ', {n})"
_NOW_TEXT = "concat(replace(CAST({now} AS VARCHAR), ' ', 'T'), 'Z')"

CHANGES: Mapping[str, Mapping[str, str]] = {
    "DeviceBaselineComplianceAssessment": {
        "IsCompliant": 'NOT coalesce("IsCompliant", false)',
        "CurrentValue": "CAST(concat('[\"', {n}, '\"]') AS JSON)",
    },
    "DeviceBaselineComplianceAssessmentKB": {"RemediationOptions": _REVISION},
    "DeviceBaselineComplianceProfiles": {"ProfileDescription": _REVISION, "LastUpdatedOn": "{now}"},
    "DeviceTvmBrowserExtensions": {
        "IsActivated": "CASE \"IsActivated\" WHEN 'True' THEN 'False' ELSE 'True' END",
    },
    "DeviceTvmBrowserExtensionsKB": {"PermissionDescription": _REVISION},
    "DeviceTvmCertificateInfo": {"FriendlyName": _REVISION},
    "DeviceTvmHardwareFirmware": {"AdditionalFields": "CAST(concat('{{\"Revision\":', {n}, '}}') AS JSON)"},
    "DeviceTvmInfoGathering": {
        "Timestamp": "{now}",
        "LastSeenTime": "{now}",
        "AdditionalFields": 'CAST(concat(\'{{"AvMode":"0","Revision":\', {n}, \'}}\') AS JSON)',
    },
    "DeviceTvmInfoGatheringKB": {"Description": _REVISION},
    "DeviceTvmSecureConfigurationAssessment": {
        "Timestamp": "{now}",
        "IsCompliant": 'NOT coalesce("IsCompliant", false)',
    },
    "DeviceTvmSecureConfigurationAssessmentKB": {"RemediationOptions": _REVISION},
    "DeviceTvmSoftwareEvidenceBeta": {
        "LastSeenTime": _NOW_TEXT,
        "DiskPaths": "CAST(concat('[\"D:\\\\', {n}, '\"]') AS JSON)",
    },
    "DeviceTvmSoftwareInventory": {"ProductCodeCpe": "concat('cpe:2.3:a:y:', {n}, ':*')", "EndOfSupportDate": "{now}"},
    "DeviceTvmSoftwareVulnerabilities": {
        "RecommendedSecurityUpdate": "concat('Update ', {n})",
        "RecommendedSecurityUpdateId": "CAST({n} AS VARCHAR)",
    },
    "DeviceTvmSoftwareVulnerabilitiesKB": {
        "LastModifiedTime": "{now}",
        "IsExploitAvailable": 'NOT coalesce("IsExploitAvailable", false)',
    },
    "ExposureGraphEdges": {"EdgeProperties": "CAST(concat('{{\"rawData\":{{\"level\":', {n}, '}}}}') AS JSON)"},
    "ExposureGraphNodes": {"NodeProperties": "CAST(concat('{{\"rawData\":{{\"score\":', {n}, '}}}}') AS JSON)"},
}
"""What changes in a row that stays, by table and column: SQL with `{n}`, a number drawn for the row, and `{now}`."""
