"""What `kill -9` of a run leaves behind in Dagster: steps that go on, a run that never ends, taken pool slots.

Here: a step ends with its run, and the launcher ends the runs whose process is gone. Not here: what the killed run had
loaded, which the next one finds in the ledger (`migration`).

Two writers of one table could load rows twice, since each plans by what it counted. The pool keeps runs apart, but a
step that outlives its run has a slot that nobody vouches for; and a run whose process is gone stays `Started`, with its
slots, so that the next run of its tables would wait for ever. Dagster's run monitoring asks the run launcher how the
run is, and the default launcher does not know (`supports_check_run_worker_health`).
"""

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

LAUNCH_TAG = "defender_adx/launch"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_EXIT_CODE = 70  # EX_SOFTWARE; nobody is left to read it
_LOG = logging.getLogger(__name__)


@cache
def end_with_run() -> None:
    """Make this step's process end as soon as the process of its run is gone; without effect in that process itself.

    At once and without cleaning up: the step is to stop as if it had been killed together with its run, before the next
    run begins. Whatever it had under way is in the ledger.
    """
    run = multiprocessing.parent_process()
    if run is None:
        return

    def watch() -> None:
        wait([run.sentinel])
        os._exit(_EXIT_CODE)

    threading.Thread(target=watch, name="run-is-alive", daemon=True).start()


@contextmanager
def alive(instance: dg.DagsterInstance, launch: str) -> Iterator[None]:
    """Show that the process of a launch is alive: it holds a lock, which the system takes back however it ends."""
    lock = _lock(instance, launch)
    with lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the launcher's runs whose process is gone, and free their pool slots.

    Returns:
        The ids of those runs.
    """
    ended = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED)):
        launch = run.tags.get(LAUNCH_TAG)
        if launch is None:
            continue
        lock = _lock(instance, launch)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            if _fail(instance, run.run_id):
                ended.append(run.run_id)
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
    return ended


def _fail(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    failed = run is not None and not run.is_finished
    if run is not None and failed:
        message = "The process of this run is gone: it was killed, or the machine restarted. The next run goes on from"
        instance.report_run_failed(run, f"{message} the ledger.")
        _LOG.warning("run %s: its process is gone; it is marked as failed and its pool slots are free", run_id)
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return failed


def _lock(instance: dg.DagsterInstance, launch: str) -> FileLock:
    folder = Path(instance.root_directory) / "launches"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{launch}.lock")
