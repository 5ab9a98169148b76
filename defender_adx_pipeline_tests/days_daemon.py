"""Dagster's daemon under a fast clock: `python -m defender_adx_pipeline_tests.days_daemon RATE run -w workspace.yaml`.

It computes its pauses from the wall clock and waits for them in real time: until the next full minute, which is long
over by then, or not at all, since a look took five minutes. Here the pauses are real: half a second for the scheduler
and the queue of runs, longer for the others, which have less to do and would take the processor from the runs. A sensor
is asked every two hours of the simulation at most. Nothing else of the daemon is changed.
"""

import sys
import threading
from typing import Any

from dagster._daemon import controller, sensor
from dagster._daemon.cli import cli

_PAUSES = {"SCHEDULER": 0.5, "QUEUED_RUN_COORDINATOR": 0.5, "SENSOR": 1.0}
"""Real seconds, by type of daemon, of which the name of its thread has the type."""
_PAUSE = 4.0
"""Of the others."""
_SENSOR_SECONDS = 7200
_wait = threading.Event.wait
_is_under_min_interval = sensor.is_under_min_interval


def _short(event: threading.Event, timeout: float | None = None) -> bool:
    if timeout is None:
        return _wait(event)
    daemon = threading.current_thread().name.removeprefix("dagster-daemon-")
    return _wait(event, _PAUSES.get(daemon, _PAUSE))


def _is_too_early(state: Any, one: Any, minimum: int | None = None) -> bool:
    return _is_under_min_interval(state, one, max(minimum or 0, _SENSOR_SECONDS))


def main(arguments: list[str]) -> None:
    """Run the daemon's own command line."""
    rate, *own = arguments
    threading.Event.wait = _short  # type: ignore[method-assign]
    sensor.is_under_min_interval = _is_too_early
    # Reading the code location anew costs as much real time as ever.
    controller.RELOAD_WORKSPACE_INTERVAL = int(controller.RELOAD_WORKSPACE_INTERVAL * float(rate))
    cli(own)


if __name__ == "__main__":
    main(sys.argv[1:])
