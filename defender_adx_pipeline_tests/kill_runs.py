"""Dagster runs as processes of their own, and killing them. For `kills`.

Here: starting a run, and killing all of it or a part. Not here: when (`kill_points`), and what must hold (`kills`).

Each run is a fork of one process that has imported the code location, and so is the run's own fork server: nothing is
imported a second time. Otherwise it is what `python -m defender_adx_pipeline.defs.launch` is: a process group of its
own, with a fork server of its own and a process for each step.
"""

import multiprocessing
import multiprocessing.util
import os
import random
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from defender_adx_pipeline.defs import launch
from defender_adx_pipeline.defs.abandoned import end_with_run
from defender_adx_pipeline_tests.kill_points import Target

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["__main__", "defender_adx_pipeline.definitions", "dagster._core.storage.sqlite_storage", __name__]


class KillError(RuntimeError):
    """Processes of a run outlive it."""


@contextmanager
def running(arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator[ForkServerProcess]:
    """A run in a process group of its own, of which nothing is left afterwards."""
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    run = _CONTEXT.Process(target=_launch, args=(list(arguments), dict(variables), log))
    run.start()
    try:
        yield run
    finally:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(run.pid or 0, signal.SIGKILL)
        run.join()
        run.close()


def _launch(arguments: list[str], variables: Mapping[str, str], log: Path) -> None:
    os.setsid()
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.update(variables)
    # The steps import the main module of the process that starts them; this one's is the harness.
    sys.modules["__main__"] = types.ModuleType("__main__")
    # Now, while this process has one thread: a fork of several could wait for locks of threads that it has not.
    spawn, multiprocessing.util.spawnv_passfds = multiprocessing.util.spawnv_passfds, _forked  # type: ignore[attr-defined]
    forkserver.ensure_running()
    multiprocessing.util.spawnv_passfds = spawn  # type: ignore[attr-defined]
    end_with_run()  # here: with the harness; after the fork, or the steps would take it for done
    sys.exit(launch.main(arguments))


def _forked(path: str, arguments: Sequence[str], kept: Sequence[int]) -> int:
    """What `multiprocessing` does to start its fork server, with a fork in place of a new Python."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for open_one in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
            if open_one > 2 and open_one not in kept:
                with suppress(OSError):  # the one that listed them
                    os.close(open_one)
        exec(arguments[-1], {})
    finally:
        os._exit(1)


def kill(run: ForkServerProcess, target: Target, dice: random.Random) -> Target:
    """Kill a run, or a part of it.

    Returns:
        What was killed: the run where it had no step to kill.

    Raises:
        KillError: processes of the run outlive it.
    """
    if target == "step":
        parents = {process.pid: process.ppid() for process in members(run)}
        servers = {pid for pid, parent in parents.items() if parent == run.pid}
        steps = [pid for pid, parent in parents.items() if parent in servers]
        if steps:
            os.kill(dice.choice(steps), signal.SIGKILL)
            return "step"
        target = "run"
    if target == "group":
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(run.pid or 0, signal.SIGKILL)
    else:
        run.kill()
    run.join()
    if not wait_until(lambda: not members(run), 10.0):
        raise KillError(f"processes of the run outlive it: {members(run)}")
    return target


def members(run: ForkServerProcess) -> list[psutil.Process]:
    """The processes of a run that are there, but for zombies: those of its group."""
    return [process for process in psutil.process_iter() if _group(process.pid) == run.pid and is_running(process)]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def is_running(process: psutil.Process) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
