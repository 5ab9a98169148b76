"""Runs as processes of their own, for those that are killed or go on at the same time as one in this process.

Here: starting and ending them. Not here: when they are killed (`cases_snapshot_kills`, and `kills` with its own way to
start hundreds of runs).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from defender_adx_pipeline_tests.faults.bench import Bench

LABEL = "defender_adx/label"
LAUNCHED_SECONDS = 90.0


def launched_run(
    bench: "Bench", tables: Sequence[str], first: str, last: str, tags: Mapping[str, str]
) -> tuple[bool, str]:
    """A run in a process of its own, its steps in others, as a pipeline of the bench."""
    del bench
    with launched(tables, first, last, tags[LABEL]) as process:
        said, _ = process.communicate(timeout=LAUNCHED_SECONDS)
    return process.returncode == 0, "" if process.returncode == 0 else said[-2000:]


@contextmanager
def launched(tables: Sequence[str], first: str, last: str, label: str) -> Iterator["subprocess.Popen[str]"]:
    """A run in a process group of its own, of which nothing is left afterwards."""
    module = "defender_adx_pipeline.defs.launch"
    command = [sys.executable, "-m", module, "--first", first, "--last", last, f"{label}={','.join(tables)}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: "subprocess.Popen[str]") -> None:
    """`kill -9` of the run, its fork server and its steps."""
    with suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
