"""One blob of JSON lines, compressed as it grows.

Here: turning the records of a slice into the bytes that are uploaded, in bounded memory. Not here: making records
(`defender`) and uploading (`ingestion`).

Level 1, since level 9 of the azure client takes ten times as long for a sixth less size. The uncompressed size is
counted exactly: the service plans its ingestion by it, and ingests a blob of unknown size alone.
"""

import tempfile
import zlib
from dataclasses import dataclass
from typing import IO, Self

from defender_adx_pipeline.adx.errors import RecordTooLargeError

DYNAMIC_LIMIT = 1024 * 1024
"""Largest dynamic value that ADX stores ("The dynamic data type": 1 MiB); a larger one becomes null silently."""

_IN_MEMORY = 16 * 1024 * 1024
_CHUNK = 256 * 1024
_GZIP = 31  # zlib's code for a gzip header with the largest window


@dataclass(frozen=True, slots=True)
class Blob:
    """A finished blob; close it when it was uploaded."""

    stream: IO[bytes]
    """The gzip file, at its beginning."""
    rows: int
    raw_bytes: int
    """Size before compression."""
    size: int
    """Size of the gzip file."""

    def close(self) -> None:
        """Free the memory, or the file on disk of a large blob."""
        self.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlobBuilder:
    """Collects records of one table. Use it as a context manager, so that an abandoned one leaves no file.

    Args:
        table: the destination, for error messages.
        limit: bytes that one record may have.
    """

    def __init__(self, table: str, *, limit: int = DYNAMIC_LIMIT) -> None:
        self.rows = 0
        self.raw_bytes = 0
        self._table = table
        self._limit = limit
        self._zip = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - outlives this function
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._finished = False

    def add(self, line: bytes, *, identity: str = "") -> None:
        """Add one record.

        Args:
            line: its JSON, an object on one line, without the line end.
            identity: what an analyst finds it by, for the error message.

        Raises:
            RecordTooLargeError: it would silently become null. It is not in the blob, which stays usable.
            ValueError: it is not an object on one line, so the service would refuse the whole blob.
        """
        if not (line.startswith(b"{") and line.endswith(b"}")) or b"\n" in line:
            raise ValueError(f"{self._table}: the record {identity or self.rows + 1} is not a JSON object on one line")
        if len(line) > self._limit:
            raise RecordTooLargeError(self._table, identity or f"number {self.rows + 1}", len(line), self._limit)
        self._pending.append(line)
        self._pending_bytes += len(line) + 1
        self.rows += 1
        self.raw_bytes += len(line) + 1
        if self._pending_bytes >= _CHUNK:
            self._compress()

    def finish(self) -> Blob:
        """The blob. The builder is spent.

        Raises:
            ValueError: no record was added; the service refuses an empty blob.
        """
        if self._finished or not self.rows:
            raise ValueError(f"{self._table}: there is no record to load, or the blob was finished before")
        self._finished = True
        self._compress()
        self._file.write(self._zip.flush())
        size = self._file.tell()
        self._file.seek(0)
        return Blob(self._file, self.rows, self.raw_bytes, size)

    def close(self) -> None:
        """Free what an unfinished builder holds; a finished blob belongs to whoever took it."""
        if not self._finished:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compress(self) -> None:
        self._pending.append(b"")
        self._file.write(self._zip.compress(b"\n".join(self._pending)))
        self._pending.clear()
        self._pending_bytes = 0
