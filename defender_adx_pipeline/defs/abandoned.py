"""What `kill -9` of a run leaves behind in Dagster: steps that go on, a run that never ends, taken pool slots.

Here: a step ends with its run; a run has its worker written on it, and is ended when that is gone. Not here: the audit
rows of such runs (`unaudited`), and what they had loaded, which the next run finds in the ledger (`migration`).

Two writers of one table could load rows twice, since each plans by what it counted. The pool keeps runs apart, but a
step that outlives its run has a slot that nobody vouches for; and a run whose process is gone stays `Started`, with its
slots, so that the next run of its tables would wait for ever. Dagster's run monitoring asks the run launcher how the
run is, and the default launcher does not know (`supports_check_run_worker_health`).
"""

import logging
import multiprocessing
import os
import socket
import threading
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path

import dagster as dg
import orjson
import psutil

WORKER_TAG = ".dagster/defender_adx_worker"
"""Dagster's page shows no tags that begin so; this one would be a line of JSON on every run."""
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_EXIT_CODE = 70  # EX_SOFTWARE; nobody is left to read it
_CLOCK_STEP = 60.0
"""Seconds by which the time that a process began may seem to move, when the machine's clock is set."""
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


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that works on a run."""

    host: str
    pid: int
    began: float
    """Seconds since 1970: another process may have the number later."""
    run_id: str = ""
    """Which run; empty where the run had no id yet. A run that Dagster starts once more has the tags of the first."""

    @classmethod
    def here(cls, run_id: str = "") -> "Worker":
        """This process."""
        return cls.process(os.getpid(), run_id)

    @classmethod
    def above(cls, run_id: str) -> "Worker":
        """The process of the run that this process is a step of, or this process itself if it runs its steps."""
        parent = multiprocessing.parent_process()
        return cls.process(os.getpid() if parent is None or parent.pid is None else parent.pid, run_id)

    @classmethod
    def process(cls, pid: int, run_id: str = "") -> "Worker":
        """A living process of this host."""
        return cls(this_host(), pid, psutil.Process(pid).create_time(), run_id)

    @classmethod
    def of(cls, run: dg.DagsterRun) -> "Worker | None":
        """The worker that is written on a run, or None."""
        text = run.tags.get(WORKER_TAG)
        worker = cls(**orjson.loads(text)) if text else None
        if worker is None or worker.run_id == run.run_id:
            return worker
        return worker if not worker.run_id and run.parent_run_id is None else None

    def tags(self) -> dict[str, str]:
        """How it is written on a run."""
        return {WORKER_TAG: orjson.dumps(asdict(self)).decode()}

    @property
    def is_here(self) -> bool:
        """Whether it is on this host; of another's processes nobody here can tell."""
        return self.host == this_host()

    def is_gone(self) -> bool:
        """Whether the process was here and has ended."""
        if not self.is_here:
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.began) < _CLOCK_STEP
            return not same or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@cache
def this_host() -> str:
    """Names whose process numbers mean the same: containers may share a host name and not see each other's."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {namespace.readlink() if namespace.is_symlink() else ''}".strip()


def sign_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Write on a run, once, which process works on it."""
    if Worker.of(run) is None:
        instance.add_run_tags(run.run_id, Worker.above(run.run_id).tags())


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the runs whose process was on this host and is gone, and free their pool slots.

    Returns:
        The ids of those runs.
    """
    ended = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED)):
        worker = Worker.of(run)
        if worker is not None and worker.is_gone() and _fail(instance, run.run_id, worker):
            ended.append(run.run_id)
    return ended


def _fail(instance: dg.DagsterInstance, run_id: str, worker: Worker) -> bool:
    run = instance.get_run_by_id(run_id)
    failed = run is not None and not run.is_finished
    if run is not None and failed:
        message = f"Its process, {worker.pid} on {worker.host}, is gone: it was killed, or the machine restarted."
        instance.report_run_failed(run, f"{message} The next run goes on from the ledger.")
        _LOG.warning("run %s: its process is gone; it is marked as failed and its pool slots are free", run_id)
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return failed
