"""Jobs: the raw and typed assets of event tables and of snapshot tables, and the resources that everything shares.

Not here: when they run.
"""

import dagster as dg

from defender_adx_pipeline.defs.io_manager import AdxIOManager
from defender_adx_pipeline.defs.resources import AdxResource, DefenderResource
from defender_adx_pipeline.defs.tables import known_tables, loaded_keys

event_tables_job = dg.define_asset_job(
    "event_tables",
    selection=dg.AssetSelection.assets(*loaded_keys(known_tables().events())),
    description=(
        "Loads event tables from Defender into ADX: what the schedules and sensors start. A backfill of all of them is"
        " launched here, by Materialize all."
    ),
)

snapshot_tables_job = dg.define_asset_job(
    "snapshot_tables",
    selection=dg.AssetSelection.assets(*loaded_keys(known_tables().snapshots())),
    description="Takes today's snapshot of tables that hold the state of now.",
)


@dg.definitions
def defs() -> dg.Definitions:
    """Resources, in one place: two files that define one key would keep the code location from loading."""
    adx = AdxResource()
    return dg.Definitions(
        resources={"defender": DefenderResource(), "adx": adx, "adx_io_manager": AdxIOManager(adx=adx)},
    )
