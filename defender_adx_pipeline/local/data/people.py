"""Who and what the tenant consists of: devices, users, programs, addresses, texts. Not here: which column holds which.

Everything is made up; domains are those reserved for documentation (RFC 2606), addresses likewise (RFC 5737).
"""

import hashlib
import uuid
from typing import Final, NamedTuple

TENANT: Final = "4b9d2c1e-7a53-4f0b-9c86-2d1f6e8a0b37"
DOMAIN: Final = "contoso.example"
DEVICES: Final = 60
USERS: Final = 80

_FIRST = (
    "Ana", "Björn", "Chloé", "Dmitri", "Eva", "Fatima", "Grzegorz", "Hana", "Íris", "Jonas",
    "Katarína", "Liam", "Márta", "Noor", "Øyvind", "Paula", "Quinn", "Rafael", "Søren", "Tomáš",
)  # fmt: skip
_LAST = ("Álvarez", "Berg", "Çelik", "Dvořák", "Evans", "Fischer", "García", "Håkansson", "Ito", "Jensen")
_ASCII = str.maketrans("áäåæçčéěíıłñóöøřšúüýžÁÅÇÍØ", "aaaacceeiilnooorsuuyzAACIO")


class Program(NamedTuple):
    """One executable of the tenant's devices."""

    file: str
    folder: str
    company: str
    product: str
    version: str
    command: str


def guid(*parts: object) -> str:
    """A GUID that depends on nothing but its parts."""
    return str(uuid.UUID(hashlib.md5("|".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()))


def digest(algorithm: str, *parts: object) -> str:
    """A file hash that depends on nothing but its parts."""
    return hashlib.new(algorithm, "|".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _names(first: int, last: int) -> tuple[str, str]:
    return _FIRST[first % len(_FIRST)], _LAST[last % len(_LAST)]


USER_NAMES: Final = tuple(_names(number, number // len(_FIRST) + 3 * number) for number in range(USERS))
ACCOUNTS: Final = tuple(
    f"{first[0]}{last}{number}".translate(_ASCII).lower() for number, (first, last) in enumerate(USER_NAMES)
)
DISPLAY_NAMES: Final = tuple(f"{first} {last}" for first, last in USER_NAMES)
UPNS: Final = tuple(f"{account}@{DOMAIN}" for account in ACCOUNTS)
SIDS: Final = tuple(f"S-1-5-21-2490359158-13971675-3780420524-{1100 + number}" for number in range(USERS))
USER_IDS: Final = tuple(guid("user", number) for number in range(USERS))

DEVICE_NAMES: Final = tuple(
    f"{'srv' if number % 8 == 0 else 'lap' if number % 3 else 'pc'}-{number:02d}.{DOMAIN}" for number in range(DEVICES)
)
DEVICE_IDS: Final = tuple(digest("sha1", "device", number) for number in range(DEVICES))
DEVICE_GUIDS: Final = tuple(guid("device", number) for number in range(DEVICES))
DEVICE_IPS: Final = tuple(f"10.20.{number // 20}.{10 + number % 20}" for number in range(DEVICES))
DEVICE_MACS: Final = tuple(f"00-15-5D-0A-{number:02X}-{(number * 37) % 256:02X}" for number in range(DEVICES))
DEVICE_SYSTEMS: Final = tuple(
    "WindowsServer2022" if number % 8 == 0 else ("macOS" if number % 13 == 5 else "Windows11")
    for number in range(DEVICES)
)

_SYSTEM = "C:\\Windows\\System32"
_MICROSOFT = ("Microsoft Corporation", "Microsoft® Windows® Operating System", "10.0.22621.3880")
PROGRAMS: Final = (
    Program("svchost.exe", _SYSTEM, *_MICROSOFT, "svchost.exe -k netsvcs -p -s Schedule"),
    Program("explorer.exe", "C:\\Windows", *_MICROSOFT, "Explorer.EXE"),
    Program(
        "powershell.exe",
        _SYSTEM + "\\WindowsPowerShell\\v1.0",
        *_MICROSOFT,
        'powershell.exe -NoProfile -Command "& {\n\tGet-ChildItem \'C:\\Büro\' |\n\tWhere-Object Length -gt 1kb\n}"',
    ),
    Program("cmd.exe", _SYSTEM, *_MICROSOFT, 'cmd.exe /c "echo ""quoted"" && type C:\\temp\\log.txt"'),
    Program("msedge.exe", "C:\\Program Files (x86)\\Microsoft\\Edge\\Application", "Microsoft Corporation",
            "Microsoft Edge", "126.0.2592.113", '"msedge.exe" --profile-directory="Default" --type=renderer'),
    Program("OUTLOOK.EXE", "C:\\Program Files\\Microsoft Office\\root\\Office16", "Microsoft Corporation",
            "Microsoft Outlook", "16.0.17726.20160", '"OUTLOOK.EXE" /restore'),
    Program("Teams.exe", "C:\\Program Files\\WindowsApps\\MSTeams", "Microsoft Corporation", "Microsoft Teams",
            "24180.205.2980.1757", '"ms-teams.exe" msteams:system-initiated'),
    Program("chrome.exe", "C:\\Program Files\\Google\\Chrome\\Application", "Google LLC", "Google Chrome",
            "126.0.6478.127", '"chrome.exe" --type=utility --lang=de'),
    Program("lsass.exe", _SYSTEM, *_MICROSOFT, "lsass.exe"),
    Program("SenseNdr.exe", "C:\\Program Files\\Windows Defender Advanced Threat Protection", *_MICROSOFT,
            "SenseNdr.exe -i 1"),
    Program("python.exe", "C:\\Users\\Öffentlich\\venv\\Scripts", "Python Software Foundation", "Python",
            "3.11.9", "python.exe -c \"print('naïve ☕ {0}\\\\n'.format(1))\""),
    Program("launchd", "/sbin", "Apple Inc.", "", "", "/sbin/launchd"),
    Program("sshd", "/usr/sbin", "", "", "", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"),
)  # fmt: skip

FILES: Final = (
    "report.docx", "Übersicht 2026.xlsx", "naïve plan.pptx", 'budget "final".xlsx', "notes.txt", "données.csv",
    "install.log", "setup.exe", "archive.zip",
    "画像.png", "invoice_0815.pdf", "~$temp.tmp", "kernel32.dll", "ntdll.dll",
    "user32.dll", "config.json", "it's here.md",
)  # fmt: skip
SUBJECTS: Final = (
    "Re: Quarterly numbers", "Übergabe — Protokoll ✓", 'FW: "Urgent" invoice', "会議の予定", "Lunch?", "",
    "Your parcel\\delivery", "Päivitys: tietoturva", "Line one\nline two", "Tab\tseparated",
)  # fmt: skip
URLS: Final = (
    "https://www.example.com/path?a=1&b=%22x%22", "https://login.example.net/oauth2/authorize",
    "http://files.example.org/download/übung.pdf", "https://intranet.contoso.example/wiki/Page#frag",
    "https://cdn.example.net/lib.js", "https://api.example.com/v1/items/42",
)  # fmt: skip
CITIES: Final = (
    ("Oslo", "NO", "Norway", "Oslo", "59.91", "10.75"), ("München", "DE", "Germany", "Bayern", "48.14", "11.58"),
    ("São Paulo", "BR", "Brazil", "São Paulo", "-23.55", "-46.63"),
    ("Austin", "US", "United States", "Texas", "30.27", "-97.74"),
    ("東京", "JP", "Japan", "東京都", "35.68", "139.69"), ("Łódź", "PL", "Poland", "Łódzkie", "51.76", "19.46"),
)  # fmt: skip
USER_AGENTS: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Client=REST;;", "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17726; Pro)", "okhttp/4.9.2", "",
)  # fmt: skip
APPLICATIONS: Final = (
    "Microsoft Exchange Online", "Office 365", "Microsoft Teams", "Microsoft SharePoint Online",
    "Active Directory", "Azure Portal", 'Contoso HR ("β")',
)  # fmt: skip
SENDERS: Final = (
    "newsletter@example.com", "müller@example.net", "no-reply@example.org",
    "alerts@contoso.example", "o'brien@example.com",
)  # fmt: skip
REGISTRY: Final = (
    "HKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Run",
    'HKEY_CURRENT_USER\\Software\\Contoso\\Größe "x"',
    "HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet001\\Services\\bam\\State",
)
