"""The processes of the simulated days: a code server and the daemon, as a deployment has them, with all automation on.

Not here: the runs, which the daemon's queue starts in the code server, and when a process is killed (`days`).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from defender_adx_pipeline.cli.tenancy import dagster_environment

_START_SECONDS = 180.0
_STOP_SECONDS = 15.0


class ProcessStartError(RuntimeError):
    """The code server did not come up; the message has the end of its log."""


def dagster_home(home: Path, first_day: str, rate: float) -> dict[str, str]:
    """DAGSTER_HOME with the project's instance settings, and what a clock of that rate takes besides.

    A run needs as much real time as ever to start and to end, so limits of such times are as much longer.
    """
    (home / "first-day").write_text(first_day)
    variables = dagster_environment(home)
    file = Path(variables["DAGSTER_HOME"]) / "dagster.yaml"
    settings: dict[str, Any] = yaml.safe_load(file.read_text())
    watched = settings["run_monitoring"]
    for name, default in (("start_timeout_seconds", 180), ("cancel_timeout_seconds", 180), ("max_runtime_seconds", 0)):
        watched[name] = round(watched.get(name, default) * rate)
    watched["poll_interval_seconds"] = round(4 * rate)
    file.write_text(yaml.safe_dump(settings))
    long = str(round(60 * rate))
    waits = {f"DAGSTER_{kind}GRPC_TIMEOUT_SECONDS": long for kind in ("", "SCHEDULE_", "SENSOR_", "REPOSITORY_")}
    # It looks at every asset; twice a real second, this would take the place of what is simulated.
    return {**variables, **waits, "FRESHNESS_DAEMON_INTERVAL_SECONDS": long, "DEFENDER_AUTOMATION": "true"}


class Processes:
    """The code server and the daemon.

    Args:
        home: where their logs are.
        variables: their environment besides that of this process.
        rate: of the clock.
    """

    def __init__(self, home: Path, variables: Mapping[str, str], rate: float) -> None:
        self._home = home
        self._variables = {**os.environ, **variables}
        self._rate = rate
        self._server: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._workspace = home / "workspace.yaml"

    def start(self) -> None:
        """Start both; the code server answers when this returns.

        Raises:
            ProcessStartError: it does not come up.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        module = "defender_adx_pipeline.definitions"
        command = ["dagster", "api", "grpc", "-m", module, "--host", "127.0.0.1", "--port", str(port)]
        self._server = self._popen([*command, "--location-name", "defender_adx_pipeline"], "server")
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise ProcessStartError(f"no code server; the end of its log:\n{self.said('server')}")
            time.sleep(0.2)
        where = {"host": "127.0.0.1", "port": port, "location_name": "defender_adx_pipeline"}
        self._workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": where}]}))
        self.start_daemon()

    def start_daemon(self) -> None:
        """Start the daemon, also after it was killed."""
        module = "defender_adx_pipeline_tests.days_daemon"
        self._daemon = self._popen([module, str(self._rate), "run", "-w", str(self._workspace)], "daemon")

    def kill_daemon(self) -> None:
        """`kill -9` of the daemon; runs go on."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()

    def ended(self) -> list[str]:
        """Which of the two have ended by themselves."""
        both = {"code server": self._server, "daemon": self._daemon}
        return [name for name, process in both.items() if process is not None and process.poll() not in (None, -9)]

    def said(self, name: str) -> str:
        """The end of the log of `server` or `daemon`."""
        return self._log(name).read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End both, and every run that is still there."""
        for process in (self._daemon, self._server):
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _popen(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self._variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self._home / f"{name}.log"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


class Ticks:
    """The ticks of one schedule, asked for several times a second.

    Args:
        instance: of the daemon.
        schedule: its name.
    """

    def __init__(self, instance: dg.DagsterInstance, schedule: str) -> None:
        self._instance = instance
        self._schedule = schedule
        self._ids: tuple[str, str] | None = None

    def newest(self) -> datetime | None:
        """For when the newest one is; None before the first."""
        if self._ids is None:
            for state in self._instance.all_instigator_state():
                if state.instigator_name == self._schedule:
                    self._ids = state.instigator_origin_id, state.selector_id
        ticks = self._instance.get_ticks(*self._ids, limit=1) if self._ids else []
        return datetime.fromtimestamp(ticks[0].timestamp, UTC) if ticks else None
