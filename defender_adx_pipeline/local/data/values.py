"""What a column of an event table holds, as SQL over one generated row.

Here: rules by column name, then by type. Not here: how many rows there are and when they happen (`generate`).
A rule sees `i`, `j`, `ts` and `received` (ticks since 1970), and the row's device `dv`, user `us`, program `pr` and
parent program `pp`, all numbers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from defender_adx_pipeline.catalogue import Column, DefenderTable
from defender_adx_pipeline.local.data import people
from defender_adx_pipeline.local.data.enumerations import ACTIONS, CHOICES
from defender_adx_pipeline.local.data.sql import (
    DAY,
    draw,
    guid_text,
    instant,
    json_bag,
    json_text,
    number,
    pick,
    salt,
)

_NULLS, _EMPTY = 10, 45
"""Percent of the values that are null, or empty for a string, where a column may be."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The column that a rule makes values for."""

    table: DefenderTable
    column: Column
    seed: int

    @property
    def name(self) -> str:
        """Column name."""
        return self.column.name

    @property
    def index(self) -> str:
        """`i` where the value alone names the row, else `j`."""
        time_too = self.table.time_column in self.table.identity
        return "i" if self.name in self.table.identity and not time_too else "j"

    def salt(self, *parts: object) -> int:
        """A salt of this column's own."""
        return salt(self.seed, self.table.name, self.name, *parts)

    def number(self, below: int, *parts: object) -> str:
        """SQL: a number in [0, below)."""
        return number(self.index, self.salt(*parts), below)

    def draw(self, values: Sequence[str]) -> str:
        """SQL: one of the texts."""
        return draw(values, self.salt(), self.index)

    def guid(self) -> str:
        """SQL: a GUID as text, one per row."""
        return guid_text(self.seed, self.table.name, self.name, self.index)


Rule = Callable[[Cell], str]


def value_sql(cell: Cell) -> str:
    """SQL for the values of one column."""
    fixed = cell.name == cell.table.time_column or cell.name in cell.table.identity
    if cell.name == cell.table.time_column:
        return instant("ts")
    value = _by_name(cell) if cell.column.type == "string" else _BY_TYPE[cell.column.type](cell)
    if fixed or (cell.column.type == "string" and cell.name in _ALWAYS):
        return value
    nothing, percent = ("''", _EMPTY) if cell.column.type == "string" else ("NULL", _NULLS)
    return f"CASE WHEN {cell.number(100, 'null')} < {percent} THEN {nothing} ELSE {value} END"


_ALWAYS = frozenset({"DeviceName", "DeviceId", "ActionType", "AccountUpn", "NetworkMessageId"})


def _by_name(cell: Cell) -> str:
    if cell.name == "ActionType":
        return cell.draw(ACTIONS.get(cell.table.name, ACTIONS[""]))
    if cell.name in CHOICES:
        return cell.draw(CHOICES[cell.name])
    for pattern, rule in _RULES:
        if pattern.search(cell.name):
            return rule(cell)
    return cell.draw(("", "Standard", "Unknown", 'Größe "M"', "C:\\Temp\\new", f"{cell.name} — 1"))


def _program(which: str, attribute: str) -> Rule:
    values = [getattr(program, attribute) for program in people.PROGRAMS]
    return lambda _: pick(values, which)


def _path(which: str) -> Rule:
    values = [
        f"{program.folder}{'/' if program.folder.startswith('/') else chr(92)}{program.file}"
        for program in people.PROGRAMS
    ]
    return lambda _: pick(values, which)


def _program_digest(which: str, algorithm: str) -> Rule:
    values = [people.digest(algorithm, program.file) for program in people.PROGRAMS]
    return lambda _: pick(values, which)


def _of(values: Sequence[str], which: str) -> Rule:
    return lambda _: pick(values, which)


def _city(position: int) -> Rule:
    values = [city[position] for city in people.CITIES]
    return lambda _: pick(values, "us")


def _drawn(values: Sequence[str]) -> Rule:
    return lambda cell: cell.draw(values)


def _address(cell: Cell) -> str:
    inside, outside = cell.number(250, "a"), cell.number(250, "b")
    return (
        f"CASE WHEN {cell.number(10, 'v6')} = 0 THEN concat('2001:db8::', to_hex({outside} * 251 + {inside}))"
        f" ELSE concat('203.0.113.', {inside}) END"
    )


def _message_id(cell: Cell) -> str:
    return guid_text(cell.seed, "message", "j // 3")


def _report_id(cell: Cell) -> str:
    if cell.table.name.startswith("Email"):
        return f"concat({_message_id(cell)}, '-', 1 + {cell.index}, '-1')"
    return f"concat({cell.guid()}, '_', 20893 + {cell.index})"


def _user_file(cell: Cell) -> str:
    return f"concat('C:\\Users\\', {pick(people.ACCOUNTS, 'us')}, '\\', {cell.draw(people.FILES)})"


def _time_text(cell: Cell) -> str:
    """A date in a column of type string, as some tables document it."""
    return f"concat('2026-0', 1 + {cell.number(9)}, '-11T08:30:00.', {cell.number(999)}, 'Z')"


def _fields_text(cell: Cell) -> str:
    """JSON text in a column of type string, as the Device tables have it."""
    return json_bag(
        Sequence=cell.number(10_000),
        Command=json_text(pick([program.command for program in people.PROGRAMS], "pp")),
        Signed="CASE WHEN j % 3 = 0 THEN 'true' ELSE 'false' END",
        Tags='\'["ü","a\\\\b"]\'',
    )


def _digest(function: str) -> Rule:
    return lambda cell: f"{function}(concat('file', {cell.number(4000)}))"


_RULES: Sequence[tuple[re.Pattern[str], Rule]] = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"^AdditionalFields$", _fields_text),
        (r"^ReportId$", _report_id),
        (r"^NetworkMessageId$", _message_id),
        (r"^InitiatingProcessParentFileName$|^ParentProcessName$", _program("pp", "file")),
        (r"^InitiatingProcessFileName$|OriginalFileName$", _program("pr", "file")),
        (r"InternalFileName$", _program("pr", "product")),
        (r"^InitiatingProcessFolderPath$", _path("pr")),
        (r"^InitiatingProcessCommandLine$", _program("pr", "command")),
        (r"CommandLine$", _program("pp", "command")),
        (r"^InitiatingProcessSHA1$", _program_digest("pr", "sha1")),
        (r"^InitiatingProcessSHA256$", _program_digest("pr", "sha256")),
        (r"^InitiatingProcessMD5$", _program_digest("pr", "md5")),
        (r"SHA256|Sha256|^PolicyHash$", _digest("sha256")),
        (r"SHA1|SignerHash|IssuerHash", _digest("sha1")),
        (r"MD5", _digest("md5")),
        (r"VersionInfoCompanyName$|^Signer$|^Issuer$|Vendor$", _program("pr", "company")),
        (r"VersionInfo(ProductName|FileDescription)$", _program("pr", "product")),
        (r"VersionInfoProductVersion$|^(App|Client|Message|Policy|Api|OS)?Version$", _program("pr", "version")),
        (r"^DeviceName$|^HostName$", _of(people.DEVICE_NAMES, "dv")),
        (r"^DeviceId$|^HostDeviceId$", _of(people.DEVICE_IDS, "dv")),
        (r"^(AadDeviceId|EntraIdDeviceId|HardwareUuid)$", _of(people.DEVICE_GUIDS, "dv")),
        (r"DeviceName$", _of(people.DEVICE_NAMES, "(dv + 7)")),
        (r"^OSPlatform$|^Platform$", _of(people.DEVICE_SYSTEMS, "dv")),
        (r"^(LocalIP|PublicIP|DestinationIPAddress)$", _of(people.DEVICE_IPS, "dv")),
        (r"^MacAddress$", lambda cell: f"concat({pick(people.DEVICE_MACS, 'dv')}, '-', {cell.index} % 3)"),
        (r"^NetworkAdapterName$", lambda cell: f"concat('{{', {guid_text('adapter', f'{cell.index} % 3')}, '}}')"),
        (r"^(Target|Request|Source|SourceUser)?(InitiatingProcess)?(Account|User)?(Domain|DomainName)$",
         _of(("contoso", people.DOMAIN), "us")),
        (r"AccountDomain$", _of(("contoso", "nt authority", ""), "us")),
        (r"AccountName$|UserName$", _of(people.ACCOUNTS, "us")),
        (r"(Upn|UPN|UserPrincipalName)s?$|^(Recipient)?EmailAddress$|AccountEmail$", _of(people.UPNS, "us")),
        (r"Sid$", _of(people.SIDS, "us")),
        (r"(Account|Recipient|Sender|User)?ObjectId$|^AccountId$", _of(people.USER_IDS, "us")),
        (r"DisplayName$|^Manager$", _of(people.DISPLAY_NAMES, "us")),
        (r"^GivenName$", _of([first for first, _ in people.USER_NAMES], "us")),
        (r"^Surname$", _of([last for _, last in people.USER_NAMES], "us")),
        (r"TenantId$", _drawn((people.TENANT,))),
        (r"^Sender(Mail)?(From)?(Email)?Address$", _drawn(people.SENDERS)),
        (r"Subject$|^Title$|Description$", _drawn(people.SUBJECTS)),
        (r"Urls?$|UrlChain$|Uri$|ReferrerUrl$", _drawn(people.URLS)),
        (r"UrlDomain|FromDomain$|Domains?$", _drawn(("example.com", "example.net", "intranet.contoso.example"))),
        (r"IPType$|IPCategory$", _drawn(("Private", "Public", "Loopback"))),
        (r"(IP|IPAddress|IpAddress|IPv4|IPv6)$", _address),
        (r"UserAgent", _drawn(people.USER_AGENTS)),
        (r"^City(Name)?$", _city(0)),
        (r"^CountryCode$|^Location$|^Country$", _city(1)),
        (r"^CountryName$", _city(2)),
        (r"^State$|^ProvinceName$", _city(3)),
        (r"^Latitude$", _city(4)),
        (r"^Longitude$", _city(5)),
        (r"Application(Names?)?$|ServiceName$|ResourceDisplayName$|^AppName$|Workload$", _drawn(people.APPLICATIONS)),
        (r"RegistryKey$", _drawn(people.REGISTRY)),
        (r"FolderPath$|FilePath$", _user_file),
        (r"FileName$|^ObjectName$|ProcessName$", _drawn(people.FILES)),
        (r"UniqueId$|Number$|Counter$", lambda cell: f"CAST({cell.number(1 << 40)} AS VARCHAR)"),
        (r"(Id|ID|Uuid|Guid|Key)s?$", Cell.guid),
        (r"(Time|Date)$", _time_text),
        (r"^(ConnectedNetworks|DnsAddresses|DefaultGateways|IPAddresses|LoggedOnUsers|AttackTechniques|Categories)$",
         _drawn(("[]", '["10.0.0.1","fe80::1"]', '[{"Name":"Büro \\"EG\\"","IsDomainJoined":true}]'))),
    )
)  # fmt: skip


def _whole(cell: Cell) -> str:
    if cell.name == "ReportId":
        # DeviceInfo and DeviceNetworkInfo carry the .NET ticks of the service's receive time, beyond 2^53; the other
        # Device tables a counter of the sensor. The low digits keep one instant's reports apart.
        ticks = cell.table.name in ("DeviceInfo", "DeviceNetworkInfo")
        low = "g" if cell.table.name == "DeviceNetworkInfo" else "j"  # one report, a row per adapter
        return f"621355968000000000 + received - received % 1000000 + {low} % 1000000" if ticks else "1 + j"
    if cell.name.endswith(("Id", "ID")):
        return f"4 * (1 + {cell.number(16_000)})"
    if cell.name.endswith(("Size", "Length")):
        return f"CAST(pow(2, {cell.number(33, 'size')}) AS BIGINT) + {cell.number(997)}"
    if cell.name.endswith("Port"):
        return f"CASE WHEN {cell.number(2, 'low')} = 0 THEN 443 ELSE 49152 + {cell.number(16_000)} END"
    return cell.number(1_000 if cell.name.endswith(("Count", "Operations")) else 7)


def _long(cell: Cell) -> str:
    wide = cell.name in ("EmailClusterId", "AccountTenantId", "DnsNetworkDuration")
    return f"9007199254740992 + {cell.number(1 << 50)}" if wide else _whole(cell)


def _earlier(cell: Cell) -> str:
    """An instant before the event, with 0 to 7 fractional digits of its own."""
    past = f"ts - {cell.number(9 * DAY)}"
    unit = f"[1, 1, 1, 10, 100, 1000, 10000, 100000, 1000000, 10000000][{cell.number(10, 'digits')} + 1]"
    return instant(f"({past}) - ({past}) % {unit}")


def _dynamic(cell: Cell) -> str:
    bag = json_bag(
        Name=json_text(draw(people.SUBJECTS, cell.salt("name"))),
        Path=json_text(draw(people.REGISTRY, cell.salt("path"))),
        Count=cell.number(1 << 60, "count"),
        Score=f"{cell.number(1000, 'score')} / 8.0",
        Ok="CASE WHEN j % 2 = 0 THEN 'true' ELSE 'false' END",
        Nested='\'{"When":"2026-08-01T01:02:03.1234567Z","List":[1,2.5,"é",{"Deep":null}]}\'',
    )
    items = json_bag(Type=json_text(draw(people.APPLICATIONS, cell.salt("type"))), Value=cell.number(500, "value"))
    if _is_bag(cell.name):
        return f"CAST(CASE WHEN {cell.number(20, 'empty')} = 0 THEN '{{}}' ELSE {bag} END AS JSON)"
    texts = json_text(draw(people.FILES, cell.salt("one")))
    return (
        f"CAST(CASE {cell.number(8, 'shape')} WHEN 0 THEN '[]' WHEN 1 THEN concat('[', {texts}, ',\"b\\\"c\"]')"
        f" WHEN 2 THEN '[1,20,300]' ELSE concat('[', {items}, ',', {bag}, ']') END AS JSON)"
    )


def _is_bag(name: str) -> bool:
    return name in _BAGS or name.endswith(("Info", "Data"))


_BAGS = frozenset(
    {"AdditionalFields", "RawAgentInfo", "LastSeenForUser", "UncommonForUser", "VerifiedPublisher", "Memory"}
)

_BY_TYPE: Mapping[str, Rule] = {
    "datetime": _earlier,
    "dynamic": _dynamic,
    "long": _long,
    "int": lambda cell: f"CAST(({_whole(cell)}) % 2147483648 AS INTEGER)",
    "bool": lambda cell: f"{cell.number(3)} = 0",
    "guid": lambda cell: f"CAST({_message_id(cell) if cell.name == 'NetworkMessageId' else cell.guid()} AS UUID)",
    "real": lambda cell: f"{cell.number(10_000)} / 64.0",
}
