"""What a table's watermark may become. Pure functions over coverage.

The watermark is the greatest time among rows of windows that are confirmed without a hole. It never passes a hole and
never goes back. Not here: asking ADX for that greatest time, and writing it (`state`).
"""

from collections.abc import Iterable
from datetime import datetime

from defender_adx_pipeline.migration.configuration import TableConfiguration
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window, covered_until


def complete_until(configuration: TableConfiguration, coverage: Iterable[Window], *, now: datetime) -> datetime | None:
    """Up to where the table is complete, counted from its watermark, or from as far back as Defender keeps.

    Returns:
        The end of the confirmed windows that join the starting point without a hole; the watermark itself when no
        confirmed window joins it; None when nothing was ever loaded, or the table asks for a first full load, and the
        windows do not reach back far enough.
    """
    earliest = readable_since(now)
    if configuration.loaded_before and configuration.load_type != "Full":
        # Coverage before the watermark was true when the watermark was written, or by the word of the older script.
        since = max(configuration.watermark_instant, earliest)
        return max(covered_until(coverage, since) or since, configuration.watermark_instant)
    return covered_until(coverage, earliest)


def advanced(configuration: TableConfiguration, latest: str | None) -> str | None:
    """The new watermark, or None when there is nothing to move.

    Args:
        configuration: the row as it stands.
        latest: greatest row time, seven digits, among rows before `complete_until`; None without a row.
    """
    if latest is None or latest <= configuration.watermark:
        return None
    return latest


def lost_window(configuration: TableConfiguration, coverage: Iterable[Window], *, now: datetime) -> Window | None:
    """The time between what is complete and what Defender still keeps, when the table fell behind by more than that.

    It is told once: as soon as a confirmed window reaches over the edge of what Defender keeps, the loss is known.
    """
    earliest = readable_since(now)
    if not configuration.loaded_before or covered_until(coverage, earliest) is not None:
        return None
    complete = covered_until(coverage, configuration.watermark_instant) or configuration.watermark_instant
    return Window(complete, earliest) if complete < earliest else None
