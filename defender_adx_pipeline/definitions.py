"""The code location: loads `defs/` and sets what holds for all of it. Nothing is defined here."""

from functools import cache
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, job, schedule, sensor and resource, run by the multiprocess executor."""
    return _built()


@cache
def _built() -> dg.Definitions:
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    preload = {"preload_modules": [__name__]}
    executor = dg.multiprocess_executor.configured({"start_method": {"forkserver": preload}})
    return dg.Definitions.merge(loaded, dg.Definitions(executor=executor))


# Built when the module is imported: the fork server imports it once, and the process of each step is a fork of that
# with everything in place. Built in each of them it would cost a second per step.
_built()
