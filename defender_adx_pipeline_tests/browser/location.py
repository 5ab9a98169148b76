"""The code location of the browser tests: the project's own, with two things that a test cannot wait for or do.

Its tick comes every minute instead of every 15, and each load of it takes further settings from `settings.json` in
DAGSTER_HOME, as if its environment had been changed: "Reload definitions" in the page then brings them into force.
"""

import os
from pathlib import Path

import dagster as dg
import orjson

from defender_adx_pipeline_tests.browser import SETTINGS, TICK

_changed = Path(os.environ["DAGSTER_HOME"]) / SETTINGS
if _changed.exists():
    os.environ.update(orjson.loads(_changed.read_bytes()))

# After the settings, which some of its modules read when they are imported.
from defender_adx_pipeline import definitions  # noqa: E402


@dg.definitions
def defs() -> dg.Definitions:
    project = definitions.defs()
    for schedule in project.schedules or ():
        if schedule.name == TICK:
            schedule._cron_schedule = "* * * * *"
    return project
