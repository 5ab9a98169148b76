"""What the parameter of a downstream asset gets: the partitions that its step asks for, as what it is annotated with.

Here: the IO manager's side of loading. Not here: the handle (`handles`), and frames (`frames`).
"""

from typing import TYPE_CHECKING

import dagster as dg

from defender_adx_pipeline.defs.frames import FrameType
from defender_adx_pipeline.defs.handles import KqlHandle, kql_handle
from defender_adx_pipeline.defs.partitions import window_of
from defender_adx_pipeline.defs.readable import reading
from defender_adx_pipeline.defs.resources import AdxResource
from defender_adx_pipeline.migration.windows import Window, merge

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def load_rows(context: dg.InputContext, adx: AdxResource) -> "KqlHandle | pd.DataFrame | pa.Table":
    """The rows of the partitions that a step asks for; of a partition mapping they may be many, with gaps.

    Raises:
        TypeError: the parameter is neither a KqlHandle nor a pandas DataFrame nor an Arrow table.
        DagsterInvariantViolationError: the upstream asset is not partitioned by time, or no partition is asked for.
        ReadingError: what `kql_handle` raises, and of frames `KqlHandle.to_pandas`, as one sentence with the mend.
    """
    asset = context.asset_key.to_user_string()
    wanted, windows = FrameType.of(context.dagster_type.typing_type, asset), _windows(context)
    with reading(asset):
        handle = kql_handle(adx, context.asset_key, *windows)
        if wanted is FrameType.HANDLE:
            return handle
        return handle.to_pandas() if wanted is FrameType.PANDAS else handle.to_arrow()


def _windows(context: dg.InputContext) -> tuple[Window, ...]:
    asset = context.asset_key.to_user_string()
    partitions = context.asset_partitions_def if context.has_asset_partitions else None
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        raise dg.DagsterInvariantViolationError(
            f"{asset} is declared without daily partitions, so it is not known which days to read. Nothing was read."
            " Declare it with `adx_asset` of defender_adx_pipeline.defs.downstream, or give its AssetSpec a"
            " DailyPartitionsDefinition."
        )
    windows = merge(window_of(partitions.time_window_for_partition_key(key)) for key in context.asset_partition_keys)
    if not windows:
        raise dg.DagsterInvariantViolationError(
            f"{asset}: the partition mapping asks for no day of it, so there is nothing to read."
        )
    return windows
