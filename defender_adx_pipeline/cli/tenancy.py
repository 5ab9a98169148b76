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
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import orjson

from defender_adx_pipeline.instants import utc_now

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
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
        started.write_text((utc_now() - timedelta(days=30)).date().isoformat())
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
    command = [sys.executable, "-m", "defender_adx_pipeline.cli", "local", "--home", str(home), *options]
    with _leaving_in_order(), log.open("wb") as output:
        # A group of its own: Ctrl-C in a terminal must not stop the tenant before what uses it.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, process_group=0)  # noqa: S603
        try:
            _await(process, state, log)
            yield environment(home)
        finally:
            _stop(process)


def run_inside(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command with the tenant's environment until it has stopped what it started; its exit code."""
    try:
        process = subprocess.Popen(command, env={**os.environ, **variables})  # noqa: S603 - the user's own command
    except FileNotFoundError:
        sys.stderr.write(f"{command[0]}: no such command\n")
        return 127
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal has told the command, too, and a second signal would disturb it while it stops.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        return 130
    finally:
        _stop(process)


@contextmanager
def _leaving_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does: through the `finally` of whatever it started.

    Ctrl-C itself is switched on again where a shell started this in the background with SIGINT ignored: children would
    inherit that, and `dagster dev` then ignores SIGTERM as well.
    """

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: leave, signal.SIGHUP: leave}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del handlers[signal.SIGHUP]  # started by nohup
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Tell a process to end, and kill it when it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
