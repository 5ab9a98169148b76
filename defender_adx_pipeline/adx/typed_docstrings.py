"""What is said of the columns of typed tables, in the web UI and in `.show table T schema`.

Here: sentences on columns, from what the catalogue knows and on names that many tables share. Not here: the command's
file (`typed_scripts`). Microsoft's page of a table (`DefenderTable.page`) describes every column; this is no copy.
"""

from collections.abc import Iterator, Mapping, Sequence

from defender_adx_pipeline.adx.typed_tables import OVERRIDES, plain, typed_columns, typed_table_name
from defender_adx_pipeline.catalogue import SNAPSHOT_TIME, Column, DefenderTable
from defender_adx_pipeline.quoting import kql_string

# "Documented type contradicts evidence": strings on the pages, and strings that hold JSON text in answers.
_JSON_TEXTS = frozenset(
    {"AdditionalFields", "LoggedOnUsers", "ConnectedNetworks", "DnsAddresses", "DefaultGateways", "IPAddresses"}
)
_DATE_TEXTS = frozenset({"ExpirationDate", "IssueDate", "LastSeenTime", "LastEditedTime"})

_PROCESS = "InitiatingProcess"
_SHARED: Mapping[str, str] = {
    "AadDeviceId": "Id of the device in Microsoft Entra ID.",
    "AccountDisplayName": "Name of the account as shown in the address book.",
    "AccountDomain": "Domain of the account.",
    "AccountName": "User name of the account.",
    "AccountObjectId": "Object id of the account in Microsoft Entra ID.",
    "AccountSid": "Security identifier (SID) of the account.",
    "AccountUpn": "User principal name (UPN) of the account.",
    "ActionType": "What happened: the kind of activity that set off the event.",
    "AdditionalFields": "Further facts that have no column of their own.",
    "Application": "Application that did what is recorded.",
    "ApplicationId": "Id of the application.",
    "AttackTechniques": "MITRE ATT&CK techniques of the activity.",
    "City": "City of the client's IP address.",
    "CorrelationId": "Id that events of one sign-in or operation share.",
    "Country": "Two-letter code of the country of the client's IP address.",
    "CveId": "Identifier of the vulnerability in the CVE list.",
    "DestinationIPAddress": "IP address that was connected to.",
    "DestinationPort": "Port that was connected to.",
    "DeviceId": "Id of the device in Defender for Endpoint.",
    "DeviceName": "Fully qualified name of the device.",
    "EmailSubject": "Subject of the email.",
    "FileName": "Name of the file that the action was done to.",
    "FileSize": "Size of the file in bytes.",
    "FolderPath": "Folder of the file that the action was done to.",
    "IPAddress": "IP address of the client.",
    "InternetMessageId": "Id of the email that the sending system set.",
    "Isp": "Internet provider of the client's IP address.",
    "LocalIP": "IP address of the device itself.",
    "LocalPort": "Port on the device itself.",
    "LogonId": "Id of the logon session; unique on one device until it restarts.",
    "LogonType": "Kind of logon, such as Interactive or Network.",
    "MD5": "MD5 of the file.",
    "NetworkMessageId": "Id of the email in Microsoft 365.",
    "OSPlatform": "Operating system of the device.",
    "OSVersion": "Version of the operating system.",
    "Port": "Port that was used.",
    "ProcessCommandLine": "Command line of the new process.",
    "ProcessCreationTime": "When the process was created.",
    "ProcessId": "Id (PID) of the new process.",
    "Protocol": "Protocol that was used.",
    "RawEventData": "The event as its source wrote it.",
    "RecipientEmailAddress": "Email address of the recipient.",
    "RegistryKey": "Registry key that the action was done to.",
    "RegistryValueData": "Data of the registry value.",
    "RegistryValueName": "Name of the registry value.",
    "RemoteIP": "IP address that was connected to, or that connected.",
    "RemotePort": "Port on the other side of the connection.",
    "RemoteUrl": "URL or domain name that was connected to.",
    "ReportId": "Id of the event. Whether it is unique, and with which columns, differs by table.",
    "SHA1": "SHA-1 of the file.",
    "SHA256": "SHA-256 of the file; often empty where SHA1 is not.",
    "SenderFromAddress": "Address of the sender in the From header.",
    "SoftwareName": "Name of the software.",
    "SoftwareVendor": "Who makes the software.",
    "SoftwareVersion": "Version of the software.",
    "ThreatNames": "Names of the threats found.",
    "ThreatTypes": "Kinds of threats found.",
    "Url": "The whole URL.",
    "UserAgent": "User agent of the browser or application.",
}


def column_texts(table: DefenderTable) -> Mapping[str, str]:
    """What is said of each column of a typed table; empty of one of which nothing is known."""
    columns = typed_columns(table)
    return {column.name: " ".join(_sentences(table, column, columns)) for column in columns}


def column_docstrings(table: DefenderTable) -> str:
    """The command that sets the docstrings of a typed table's columns; columns of which nothing is known have none."""
    said = column_texts(table)
    lines = ",\n".join(f"    {plain(name)}: {kql_string(text)}" for name, text in said.items() if text)
    return f".alter-merge table {plain(typed_table_name(table))} column-docstrings (\n{lines}\n)\n"


def _sentences(table: DefenderTable, column: Column, columns: Sequence[Column]) -> Iterator[str]:
    name = column.name
    if name == SNAPSHOT_TIME and table.kind == "snapshot":
        yield "When the snapshot was taken, UTC; the same in all its rows."
    elif name == table.time_column:
        yield "When it happened, UTC, to 100 ns." if table.kind == "event" else "When the record was assessed, UTC."
    elif name in _SHARED:
        yield _SHARED[name]
    elif name.startswith(_PROCESS):
        yield "Of the process that initiated the event."
    if name in table.identity:
        yield "Part of the key of a row."
    if name in table.mutable_columns:
        yield "Defender changes it after the row was written; here it is as it was when the row was read."
    yield from _of_type(table, column, columns)


def _of_type(table: DefenderTable, column: Column, columns: Sequence[Column]) -> Iterator[str]:
    if column.type == "string" and column.name in _JSON_TEXTS:
        yield f"Text that holds JSON: parse_json({column.name})."
    if column.type == "string" and column.name in _DATE_TEXTS:
        yield f"Text that holds a date: todatetime({column.name})."
    if (table.name, column.name) in OVERRIDES:
        yield f"Documented as {table.column_type(column.name)}."
    if any(column.name == other.name for other in table.undocumented_columns):
        yield "Not on Microsoft's page of the table; seen in tenants."
    folded = column.name.casefold()
    for twin in (other.name for other in columns if other.name.casefold() == folded and other.name != column.name):
        yield f"Another column is {twin}: names are case-sensitive."
