"""What an asset of your own needs to read these tables, also in a code location of your own. Import it from here.

    import dagster as dg
    from defender_adx_pipeline.defs.downstream import AdxIOManager, AdxResource, KqlHandle, adx_asset

    logons = adx_asset("DeviceLogonEvents")

    @dg.asset(ins={"logons": dg.AssetIn(key=logons.key)}, partitions_def=logons.partitions_def)
    def logons_per_device(logons: KqlHandle) -> list[dict]:
        return logons.run("| summarize Logons = count() by DeviceName")

    defs = dg.Definitions(
        assets=[logons, logons_per_device],
        resources={"adx_io_manager": AdxIOManager(adx=AdxResource())},
    )

The annotation chooses what arrives: `KqlHandle` (the work is done in ADX), `pandas.DataFrame` or `pyarrow.Table` (all
rows, in memory). One partition gives one day, a range run or a partition mapping all of its days. Without an upstream
value, `kql_handle(adx, "adx/DeviceLogonEvents", context.partition_time_window)` gives the same handle. Where ADX is and
who signs in say the settings of the pipeline, in the environment of your process: ADX_CLUSTER_URI, ADX_DATABASE and
AZURE_*. A whole example is docs/examples/new_local_admins.py.

Not here: how any of it works; each name is defined in the module that it is imported from.
"""

import dagster as dg

from defender_adx_pipeline.defs.handles import KqlHandle, kql_handle
from defender_adx_pipeline.defs.io_manager import AdxIOManager
from defender_adx_pipeline.defs.partitions import daily
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.defs.tables import known_tables

__all__ = ["AdxIOManager", "AdxResource", "KqlHandle", "adx_asset", "kql_handle"]


def adx_asset(table: str, *, partitions_def: dg.PartitionsDefinition = daily) -> dg.AssetSpec:
    """An asset of the pipeline as another code location declares it: external there, partitioned by day.

    In the same Dagster deployment the two are one asset, with its lineage across both code locations.

    Args:
        table: `DeviceLogonEvents` for typed rows, `DeviceLogonEventsRaw` for records.
        partitions_def: the days of the pipeline, from DEFENDER_START_DATE as your process has it.

    Raises:
        UnknownTableError: there is no such Defender table; DEFENDER_TABLES_FILE may add it.
    """
    known = known_tables()[table.removesuffix("Raw")]
    key = dg.AssetKey(["adx", known.raw_table if table.endswith("Raw") else known.name])
    return dg.AssetSpec(key, partitions_def=partitions_def).with_io_manager_key("adx_io_manager")
