"""The code location: loads `defs/` and sets what holds for all of it. Nothing is defined here."""

from pathlib import Path

import dagster as dg



@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, job, schedule, sensor and resource, run by the multiprocess executor."""
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    executor = dg.multiprocess_executor.configured(
        {"start_method": {"forkserver": {"preload_modules": ["defender_adx_pipeline.definitions"]}}}
    )
    return dg.Definitions.merge(loaded, dg.Definitions(executor=executor))
