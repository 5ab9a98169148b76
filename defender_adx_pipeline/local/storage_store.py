"""Blobs and queues of the local tenant, kept on disk so that a killed tenant loses nothing.

Here: what is stored, who may see which message when, and shared access signatures. Not here: HTTP (`storage`) and what
a message means (`worker`).
"""

import base64
import hashlib
import hmac
import secrets
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from defender_adx_pipeline.local.state import utcnow

ACCOUNT = "devstoreaccount1"
MESSAGE_LIMIT = 64 * 1024
"""Bytes of a queue message as sent (base64)."""
MESSAGE_LIFE = timedelta(days=7)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS blobs (container TEXT, name TEXT, size INTEGER, md5 TEXT, etag TEXT, created TEXT,
  PRIMARY KEY (container, name));
CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT, id TEXT, text TEXT,
  inserted TEXT, expires TEXT, visible TEXT, dequeued INTEGER, receipt TEXT);
"""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A committed block blob."""

    container: str
    name: str
    size: int
    md5: str
    """Base64, as the Content-MD5 header has it."""
    etag: str
    created: datetime


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A queue message as one reader got it."""

    queue: str
    id: str
    text: str
    inserted: datetime
    expires: datetime
    visible: datetime
    dequeued: int
    receipt: str


class SasError(Exception):
    """A shared access signature that is missing, wrong, expired or too weak; `code` is the service's error code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class StorageStore:
    """Containers, blobs and queues under a folder. Thread-safe.

    Args:
        home: folder for the files; made when missing.
        clock: the present, for expiry and visibility.
    """

    def __init__(self, home: Path, *, clock: Callable[[], datetime] = utcnow) -> None:
        self.clock = clock
        self.arrived = threading.Event()
        """Set when a message was put; whoever waits for messages clears it."""
        self._blobs, self._blocks = home / "blobs", home / "blocks"
        for folder in (home, self._blobs, self._blocks):
            folder.mkdir(parents=True, exist_ok=True)
        self.key = _key(home / "sas.key")
        """Signs shared access signatures and identity tokens."""
        self._lock = threading.RLock()
        self._db = sqlite3.connect(home / "storage.sqlite", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._db.close()

    # Shared access signatures ------------------------------------------------------------------------------------

    def sas(self, resource: str, permissions: str, expiry: datetime) -> str:
        """A query string that lets its bearer at a container or queue until a time."""
        until = expiry.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {"sv": "2025-07-05", "sp": permissions, "se": until, "sr": "c"}
        return urlencode({**fields, "sig": self._signature(resource, permissions, until)})

    def check_sas(self, resource: str, query: str, permission: str) -> None:
        """Check what a request brings against what it wants.

        Args:
            resource: the container or queue.
            query: the request's query string.
            permission: any one of these letters is enough.

        Raises:
            SasError: the request may not.
        """
        fields = {name: values[0] for name, values in parse_qs(query).items()}
        if "sig" not in fields:
            raise SasError("NoAuthenticationInformation", "Server failed to authenticate the request.")
        given, until = fields.get("sp", ""), fields.get("se", "")
        if not hmac.compare_digest(fields["sig"], self._signature(resource, given, until)):
            raise SasError("AuthenticationFailed", "Signature did not match.")
        if datetime.strptime(until, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) <= self.clock():
            raise SasError("AuthenticationFailed", f"Signature not valid in the specified time frame: Expiry [{until}]")
        if not set(permission) & set(given):
            raise SasError(
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
            )

    def _signature(self, resource: str, permissions: str, until: str) -> str:
        signed = f"{ACCOUNT}/{resource}\n{permissions}\n{until}".encode()
        return base64.b64encode(hmac.digest(self.key, signed, "sha256")).decode()

    # Blobs -------------------------------------------------------------------------------------------------------

    def create_container(self, name: str) -> bool:
        """Make a container; False when it is there already."""
        with self._lock:
            (self._blobs / _file_name(name)).mkdir(exist_ok=True)
            return self._db.execute("INSERT OR IGNORE INTO containers VALUES (?)", [name]).rowcount == 1

    def has_container(self, name: str) -> bool:
        """Whether a container exists."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM containers WHERE name = ?", [name]).fetchone() is not None

    def blob(self, container: str, name: str) -> StoredBlob | None:
        """A blob's properties, or None."""
        with self._lock:
            row = self._db.execute(
                "SELECT container, name, size, md5, etag, created FROM blobs WHERE container = ? AND name = ?",
                [container, name],
            ).fetchone()
        return None if row is None else _blob(row)

    def blobs(self, container: str, prefix: str = "") -> list[StoredBlob]:
        """The blobs of a container by name."""
        with self._lock:
            rows = self._db.execute(
                "SELECT container, name, size, md5, etag, created FROM blobs WHERE container = ?"
                " AND substr(name, 1, ?) = ? ORDER BY name",
                [container, len(prefix), prefix],
            ).fetchall()
        return [_blob(row) for row in rows]

    def path(self, container: str, name: str) -> Path:
        """Where a blob's bytes lie."""
        return self._blobs / _file_name(container) / _file_name(name)

    def spool(self) -> Path:
        """A new file name for bytes that are still arriving."""
        return self._blocks / uuid.uuid4().hex

    def commit(self, container: str, name: str, spooled: Path, *, overwrite: bool) -> StoredBlob | None:
        """Make spooled bytes a blob, whole or not at all; None when it exists and may not be overwritten."""
        digest = hashlib.md5(usedforsecurity=False)
        with spooled.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        md5 = base64.b64encode(digest.digest()).decode()
        blob = StoredBlob(
            container, name, spooled.stat().st_size, md5, f'"0x{uuid.uuid4().hex[:15].upper()}"', self.clock()
        )
        with self._lock:
            if not overwrite and self.blob(container, name) is not None:
                spooled.unlink()
                return None
            spooled.replace(self.path(container, name))
            self._db.execute(
                "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?, ?)",
                [container, name, blob.size, md5, blob.etag, _text(blob.created)],
            )
        return blob

    def put_block(self, container: str, name: str, block_id: str, spooled: Path) -> None:
        """Keep one block of a blob that is not committed yet."""
        spooled.replace(self._block(container, name, block_id))

    def commit_blocks(self, container: str, name: str, block_ids: list[str], *, overwrite: bool) -> StoredBlob | None:
        """Put blocks together as a blob.

        Raises:
            FileNotFoundError: a block was never put.
        """
        spooled = self.spool()
        with spooled.open("wb") as whole:
            for block_id in block_ids:
                with self._block(container, name, block_id).open("rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
        blob = self.commit(container, name, spooled, overwrite=overwrite)
        for block_id in block_ids:
            self._block(container, name, block_id).unlink(missing_ok=True)
        return blob

    def delete_blob(self, container: str, name: str) -> bool:
        """Delete a blob; False when there is none."""
        with self._lock:
            found = self._db.execute("DELETE FROM blobs WHERE container = ? AND name = ?", [container, name]).rowcount
            self.path(container, name).unlink(missing_ok=True)
        return found == 1

    def sweep(self, age: timedelta) -> int:
        """Delete blobs older than `age`, as the service's own storage does; returns how many."""
        with self._lock:
            old = self._db.execute(
                "SELECT container, name FROM blobs WHERE created < ?", [_text(self.clock() - age)]
            ).fetchall()
            for container, name in old:
                self.delete_blob(container, name)
        return len(old)

    def _block(self, container: str, name: str, block_id: str) -> Path:
        return self._blocks / _file_name(f"{container}/{name}#{block_id}")

    # Queues ------------------------------------------------------------------------------------------------------

    def create_queue(self, name: str) -> bool:
        """Make a queue; False when it is there already."""
        with self._lock:
            return self._db.execute("INSERT OR IGNORE INTO queues VALUES (?)", [name]).rowcount == 1

    def has_queue(self, name: str) -> bool:
        """Whether a queue exists."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM queues WHERE name = ?", [name]).fetchone() is not None

    def put_message(self, queue: str, text: str, *, hidden: float = 0.0) -> StoredMessage:
        """Append a message that becomes visible `hidden` seconds from now."""
        now = self.clock()
        visible = now + timedelta(seconds=hidden)
        message = StoredMessage(
            queue, str(uuid.uuid4()), text, now, now + MESSAGE_LIFE, visible, 0, secrets.token_urlsafe(12)
        )
        with self._lock:
            self._db.execute(
                "INSERT INTO messages (queue, id, text, inserted, expires, visible, dequeued, receipt)"
                " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                [queue, message.id, text, _text(now), _text(message.expires), _text(visible), message.receipt],
            )
        self.arrived.set()
        return message

    def messages(self, queue: str, count: int, *, hide: float | None) -> list[StoredMessage]:
        """The oldest visible messages.

        Args:
            queue: the queue.
            count: at most so many.
            hide: seconds for which nobody else sees them; None peeks.
        """
        now = self.clock()
        with self._lock:
            rows = self._db.execute(
                "SELECT queue, id, text, inserted, expires, visible, dequeued, receipt FROM messages"
                " WHERE queue = ? AND visible <= ? AND expires > ? ORDER BY number LIMIT ?",
                [queue, _text(now), _text(now), count],
            ).fetchall()
            found = [_message(row) for row in rows]
            if hide is None:
                return found
            return [self._take(message, now + timedelta(seconds=hide)) for message in found]

    def _take(self, message: StoredMessage, visible: datetime) -> StoredMessage:
        receipt = secrets.token_urlsafe(12)
        self._db.execute(
            "UPDATE messages SET visible = ?, dequeued = dequeued + 1, receipt = ? WHERE id = ?",
            [_text(visible), receipt, message.id],
        )
        return StoredMessage(
            message.queue,
            message.id,
            message.text,
            message.inserted,
            message.expires,
            visible,
            message.dequeued + 1,
            receipt,
        )

    def delete_message(self, queue: str, id_: str, receipt: str) -> bool:
        """Delete a message; False when the receipt is not the latest."""
        with self._lock:
            sql = "DELETE FROM messages WHERE queue = ? AND id = ? AND receipt = ?"
            return self._db.execute(sql, [queue, id_, receipt]).rowcount == 1

    def clear_messages(self, queue: str) -> None:
        """Delete all messages of a queue."""
        with self._lock:
            self._db.execute("DELETE FROM messages WHERE queue = ?", [queue])

    def message_count(self, queue: str) -> int:
        """How many messages a queue has, visible or not."""
        with self._lock:
            row = self._db.execute("SELECT count(*) FROM messages WHERE queue = ?", [queue]).fetchone()
        return int(row[0])

    def release_messages(self) -> None:
        """Make every message visible again: what a reader held that died with the last process."""
        with self._lock:
            self._db.execute("UPDATE messages SET visible = inserted")


def _key(path: Path) -> bytes:
    """The signing key, the same after a restart, so that queued URLs stay good."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def _file_name(name: str) -> str:
    """A file name that no blob name can lead astray."""
    return hashlib.sha256(name.encode()).hexdigest()


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _blob(row: tuple[str, str, int, str, str, str]) -> StoredBlob:
    return StoredBlob(*row[:5], datetime.fromisoformat(row[5]))


def _message(row: tuple[str, str, str, str, str, str, int, str]) -> StoredMessage:
    inserted, expires, visible = (datetime.fromisoformat(text) for text in row[3:6])
    return StoredMessage(row[0], row[1], row[2], inserted, expires, visible, row[6], row[7])
