"""The code location: loads `defs/` and sets what holds for all of it. Nothing is defined here."""

from functools import cache

import dagster as dg

from defender_adx_pipeline.defs import assets, jobs, schedules, sensors


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, job, schedule, sensor and resource, run by the multiprocess executor."""
    return _built()


@cache
def _built() -> dg.Definitions:
    # Module by module: `load_from_defs_folder` needs the project's pyproject.toml, which an installed wheel has not.
    named = dg.load_definitions_from_modules([jobs, schedules, sensors])
    preload = {"preload_modules": [__name__]}
    executor = dg.multiprocess_executor.configured({"start_method": {"forkserver": preload}})
    return dg.Definitions.merge(assets.defs(), jobs.defs(), named, dg.Definitions(executor=executor))


# Built when the module is imported: the fork server imports it once, and the process of each step is a fork of that
# with everything in place. Built in each of them it would cost a second per step.
_built()
