"""Columns whose values come from a short list, with the spellings of the hunting pages. Not here: anything computed."""

from collections.abc import Mapping, Sequence

ACTIONS: Mapping[str, Sequence[str]] = {
    "": ("Read", "Update", "Create", "Delete"),
    "CloudAppEvents": ("MailItemsAccessed", "FileDownloaded", "UserLoggedIn", "Add delegated permission grant."),
    "DeviceEvents": ("LdapSearch", "PowerShellCommand", "AntivirusDetection", "PnpDeviceConnected", "DpapiAccessed"),
    "DeviceFileEvents": ("FileCreated", "FileModified", "FileDeleted", "FileRenamed"),
    "DeviceImageLoadEvents": ("ImageLoaded",),
    "DeviceLogonEvents": ("LogonSuccess", "LogonFailed", "LogonAttempted"),
    "DeviceNetworkEvents": ("ConnectionSuccess", "ConnectionFailed", "ConnectionRequest", "DnsConnectionInspected"),
    "DeviceProcessEvents": ("ProcessCreated", "OpenProcess"),
    "DeviceRegistryEvents": ("RegistryValueSet", "RegistryKeyCreated", "RegistryValueDeleted"),
    "IdentityDirectoryEvents": (
        "Account Password changed",
        "Directory Services replication",
        "Group Membership changed",
    ),
    "IdentityLogonEvents": ("LogonSuccess", "LogonFailed"),
    "IdentityQueryEvents": ("LDAP query", "DNS query", "SAMR query"),
    "UrlClickEvents": ("ClickAllowed", "ClickBlocked", "UrlScanInProgress"),
}

CHOICES: Mapping[str, Sequence[str]] = {
    "DeliveryAction": ("Delivered", "Junked", "Blocked", "Replaced"),
    "LatestDeliveryAction": ("Delivered", "Junked", "Blocked"),
    "DeliveryLocation": ("Inbox/folder", "Junk folder", "Quarantine"),
    "LatestDeliveryLocation": ("Inbox/folder", "Junk folder", "Quarantine"),
    "DeviceType": ("Workstation", "Server", "Desktop", "Other"),
    "EmailDirection": ("Inbound", "Outbound", "Intra-org"),
    "EntityType": ("Machine", "User", "Process", "File", "Ip", "Url"),
    "EvidenceRole": ("Impacted", "Related"),
    "InitiatingProcessIntegrityLevel": ("System", "High", "Medium", "Low"),
    "InitiatingProcessTokenElevation": ("TokenElevationTypeDefault", "TokenElevationTypeFull", "None"),
    "JoinType": ("AAD Joined", "Hybrid Azure AD Join", "Domain Joined"),
    "LogonType": ("Interactive", "Network", "RemoteInteractive", "Batch"),
    "OSArchitecture": ("64-bit", "ARM64"),
    "OnboardingStatus": ("Onboarded", "Can be onboarded"),
    "Port": ("443", "389", "88"),
    "Protocol": ("Tcp", "Udp", "Kerberos", "Ldap", "Ntlm"),
    "RegistryValueType": ("String", "Dword", "ExpandString", "MultiString"),
    "RegistryValueData": ("1", "", '"C:\\Program Files\\App\\a.exe" /min', "Wert mit\nZeile", "\u200bzero width"),
    "RequestMethod": ("GET", "POST", "PATCH"),
    "ResponseStatusCode": ("200", "204", "403", "429"),
    "SensorHealthState": ("Active", "Inactive"),
    "ServiceSource": ("Microsoft Defender for Endpoint", "Microsoft Defender for Identity", "Microsoft Defender XDR"),
    "Severity": ("Low", "Medium", "High", "Informational"),
    "SourceSystem": ("MTP", "OpsManager"),
    "Type": ("Event", "User"),
}
