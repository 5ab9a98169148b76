"""The clock of the simulated days: one file that all processes read, through a library that is preloaded into them.

Here: building the library (`days_clock.c`; takes a C compiler), starting a program again under it, and setting how fast
the clock runs. Not here: what happens meanwhile (`days`).
"""

import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

VARIABLE = "DEFENDER_ADX_CLOCK"
"""Names the file of the clock in the environment of a process that runs by it."""

_SOURCE = Path(__file__).with_suffix(".c")
_FIELDS = "=Qqqd"  # as `struct shared` there
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ClockError(RuntimeError):
    """The clock cannot be had on this machine; the message says what to install."""


class Clock:
    """The clock in a file, to be read and set.

    Args:
        file: the clock's file.
    """

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), struct.calcsize(_FIELDS))

    @property
    def rate(self) -> float:
        """How many seconds pass in a real one."""
        return float(self._fields()[3])

    def now(self) -> datetime:
        """What time it is by this clock."""
        return _EPOCH + timedelta(microseconds=self._wall(time.monotonic_ns()) // 1000)

    def run(self, rate: float) -> None:
        """From now on that many seconds pass in a real one."""
        if rate != self.rate:
            version, monotonic = self._fields()[0], time.monotonic_ns()
            wall = self._wall(monotonic)
            struct.pack_into("=Q", self._shared, 0, version + 1)
            struct.pack_into("=qqd", self._shared, 8, monotonic, wall, rate)
            struct.pack_into("=Q", self._shared, 0, version + 2)

    def _wall(self, monotonic: int) -> int:
        _, since, then, rate = self._fields()
        return int(then + (monotonic - since) * rate)

    def _fields(self) -> tuple[int, int, int, float]:
        version, since, then, rate = struct.unpack(_FIELDS, self._shared)
        return version, since, then, rate


def started() -> Clock | None:
    """The clock by which this process runs; None when it is the machine's."""
    return Clock(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def made(folder: Path, begin: datetime) -> dict[str, str]:
    """The environment of processes that run by a clock of their own, which says `begin` and goes at the real pace.

    Raises:
        ClockError: there is no C compiler, or not Linux.
    """
    library, file = folder / "clock.so", folder / "clock"
    if not sys.platform.startswith("linux"):
        raise ClockError("the simulated clock is a preloaded library, and needs Linux")
    compiler = ["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    try:
        subprocess.run(compiler, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ClockError("no C compiler on this machine: apt-get install gcc libc6-dev") from None
    except subprocess.CalledProcessError as error:
        raise ClockError(f"{_SOURCE.name} cannot be built:\n{error.stderr}") from error
    wall = (begin - _EPOCH) // timedelta(microseconds=1) * 1000
    file.write_bytes(struct.pack(_FIELDS, 2, time.monotonic_ns(), wall, 1.0))
    return {VARIABLE: str(file), "LD_PRELOAD": str(library)}


def start_again(command: Sequence[str], folder: Path, begin: datetime) -> NoReturn:
    """Replace this process by one that runs by such a clock.

    Raises:
        ClockError: as `made`.
    """
    os.execve(command[0], [*command], {**os.environ, **made(folder, begin)})
