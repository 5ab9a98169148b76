"""The code location: loads `defs/` and sets what holds for all of it. Nothing is defined here."""

import warnings
from functools import cache

import dagster as dg

from defender_adx_pipeline.defs import (
    assets,
    gaps,
    health,
    jobs,
    no_duplicates,
    schedules,
    sensors,
    values_fit,
    wrong_settings,
)

_STEPS = 4
"""Steps of one run at a time, whatever the number of cores: they mostly wait, for Defender's answers and for ADX."""

_PRELOAD = [__name__, "dagster._core.storage.sqlite_storage"]
"""What the fork server of a run imports for all of its steps. The instance's storage takes 0.6 s of a core with what it
brings, whatever the database; a name that a later Dagster does not know is passed over."""


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, job, schedule, sensor and resource, run by the multiprocess executor."""
    return _built()


@cache
def _built() -> dg.Definitions:
    with warnings.catch_warnings():
        # Dagster tells of `backfill_policy` once for each asset, in the log of every process that loads this.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        # Module by module: `load_from_defs_folder` needs the pyproject.toml, which an installed wheel has not.
        modules = [gaps, health, jobs, no_duplicates, schedules, sensors, values_fit, wrong_settings]
        named = dg.load_definitions_from_modules(modules)
        executor = dg.multiprocess_executor.configured(
            {"max_concurrent": _STEPS, "start_method": {"forkserver": {"preload_modules": _PRELOAD}}}
        )
        return dg.Definitions.merge(assets.defs(), jobs.defs(), named, dg.Definitions(executor=executor))


# Built when the module is imported: the fork server imports it once, and the process of each step is a fork of that
# with everything in place. Built in each of them it would cost a second per step.
_built()
