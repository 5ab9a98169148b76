"""The local tenant as a process of its own, and the environment in which everything else finds it.

Not here: the tenant (`local`).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import orjson

from defender_adx_pipeline.instants import utc_now

_START_SECONDS = 120.0
_STATE = "tenant.json"


class TenantStartError(RuntimeError):
    """The local tenant did not come up; the message ends with what it printed last."""


def environment(home: Path) -> dict[str, str]:
    """The settings of a tenant that is running on a home, from the file that it writes there."""
    return dict(orjson.loads((home / _STATE).read_bytes())["environment"])


def dagster_environment(home: Path) -> dict[str, str]:
    """DAGSTER_HOME under a home, with the project's instance settings, and partitions that begin with the data."""
    dagster_home = home.resolve() / "dagster"
    dagster_home.mkdir(parents=True, exist_ok=True)
    settings = dagster_home / "dagster.yaml"
    if not settings.exists():
        shutil.copyfile(_instance_settings(), settings)
    started = home / "first-day"
    if not started.exists():
        started.write_text((utc_now() - timedelta(days=31)).date().isoformat())
    return {"DAGSTER_HOME": str(dagster_home), "DEFENDER_START_DATE": started.read_text().strip()}


@contextmanager
def running_tenant(home: Path, options: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """Start `defender-adx local` on a home, give its environment, and stop it afterwards.

    Raises:
        TenantStartError: it ended or did not answer in time.
    """
    home.mkdir(parents=True, exist_ok=True)
    state, log = home / _STATE, home / "tenant.log"
    state.unlink(missing_ok=True)
    with log.open("wb") as output:
        command = [sys.executable, "-m", "defender_adx_pipeline.cli", "local", "--home", str(home), *options]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603 - our own command
    try:
        _await(process, state, log)
        yield environment(home)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def run_inside(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command with the tenant's environment; its exit code."""
    try:
        return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode  # noqa: S603
    except FileNotFoundError:
        sys.stderr.write(f"{command[0]}: no such command\n")
        return 127
    except KeyboardInterrupt:
        return 130


def _await(process: subprocess.Popen[bytes], state: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not state.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise TenantStartError(f"the local tenant did not start; the end of {log}:\n{tail}")
        time.sleep(0.05)


def _instance_settings() -> Path:
    """`dagster.yaml` of the source checkout, or the copy inside the wheel."""
    package = Path(str(files("defender_adx_pipeline")))
    for candidate in (package.parent / "dagster.yaml", package / "dagster.yaml"):
        if candidate.exists():
            return candidate
    raise TenantStartError("dagster.yaml is missing from the installation: install defender_adx_pipeline again")
