"""`make ui` as a process: started on a free port over a home of its own, awaited, ended, and its children counted.

Here: the process and what it serves. Not here: clicking (`pages`).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from defender_adx_pipeline.cli import tenancy

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
_START_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Site:
    """A running `make ui`."""

    url: str
    home: Path
    log: Path
    process: subprocess.Popen[bytes]

    def environment(self) -> dict[str, str]:
        """The settings that lead to the tenant of this site, for a command beside it."""
        return {**os.environ, **tenancy.environment(self.home), **tenancy.dagster_environment(self.home)}

    def command(self, *arguments: str) -> str:
        """What a `defender-adx` command prints on this tenant; it must succeed."""
        command = [VENV / "bin" / "defender-adx", *arguments]
        return subprocess.run(command, env=self.environment(), check=True, capture_output=True, text=True).stdout

    def family(self) -> list[psutil.Process]:
        """Every process that this one started, directly or not."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def serving(home: Path) -> Iterator[Site]:
    """`make ui` over a home, answering; ended afterwards, with all of its processes, whatever happened."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home.with_suffix(".log")
    # The environment that `make` finds is up to date: this run came out of it.
    command = ["make", "-o", VENV / ".installed", "ui", f"VENV={VENV}", f"DEMO={home}", f"PORT={port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_plain(os.environ), stdout=output, stderr=output, start_new_session=True
        )
    site = Site(f"http://127.0.0.1:{port}", home, log, process)
    try:
        eventually(lambda: _answers(site), _START_SECONDS, f"make ui did not come up: {log}")
        yield site
    finally:
        family = site.family() if process.poll() is None else []
        interrupt(site)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in family:
            if child.is_running():
                child.kill()


def interrupt(site: Site) -> None:
    """What Ctrl-C in a terminal does: SIGINT to every process of the foreground group."""
    if site.process.poll() is None:
        os.killpg(site.process.pid, signal.SIGINT)


def eventually(condition: Callable[[], object], seconds: float, complaint: str) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


def _answers(site: Site) -> bool:
    assert site.process.poll() is None, f"make ui ended:\n{site.log.read_text()}"
    try:
        return requests.get(f"{site.url}/server_info", timeout=5).ok
    except requests.ConnectionError:
        return False


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables of a `make` around this run, and without settings of a real tenant."""
    foreign = ("MAKE", "MFLAGS", "AZURE_", "ADX_", "DEFENDER_", "DAGSTER_")
    return {name: value for name, value in environment.items() if not name.startswith(foreign)}
