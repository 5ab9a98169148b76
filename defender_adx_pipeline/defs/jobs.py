"""Jobs: the raw assets of all event tables, and the resources that everything shares. Not here: when they run."""

import dagster as dg

from defender_adx_pipeline.defs.io_manager import AdxIOManager
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource

RAW_ASSETS = dg.AssetSelection.key_prefixes("adx") - dg.AssetSelection.key_prefixes("defender")

event_tables_job = dg.define_asset_job(
    "event_tables",
    selection=RAW_ASSETS,
    description="Loads event tables from Defender into ADX: what the schedule and the sensor start.",
)


@dg.definitions
def defs() -> dg.Definitions:
    """Resources, in one place: two files that define one key would keep the code location from loading."""
    adx = AdxResource()
    return dg.Definitions(
        resources={"defender": DefenderResource(), "adx": adx, "adx_io_manager": AdxIOManager(adx=adx)},
    )
