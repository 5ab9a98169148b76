"""Half-open windows of time on whole microseconds, and the coverage that confirmed windows add up to.

Here: values and arithmetic on them. Not here: which window a run should take (`scope`), or row times, which keep a
seventh digit as text (`instants`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from defender_adx_pipeline.instants import MICROSECOND


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """`[start, end)` in UTC; both bounds are aware and whole microseconds, as datetimes are.

    Raises:
        ValueError: on construction, when a bound is naive or the window is empty.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for bound in (self.start, self.end):
            if bound.tzinfo is None:
                raise ValueError(f"a naive datetime is no bound of a window: {bound.isoformat()}")
        object.__setattr__(self, "start", self.start.astimezone(UTC))
        object.__setattr__(self, "end", self.end.astimezone(UTC))
        if self.start >= self.end:
            raise ValueError(f"an empty window: [{self.start.isoformat()}, {self.end.isoformat()})")

    def __str__(self) -> str:
        return f"[{_short(self.start)}, {_short(self.end)})"

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    @property
    def length(self) -> timedelta:
        """End minus start."""
        return self.end - self.start

    def overlaps(self, other: "Window") -> bool:
        """Whether the two share an instant."""
        return self.start < other.end and other.start < self.end

    def halves(self) -> "tuple[Window, Window] | None":
        """Two adjacent windows of about half the length, or None for a single microsecond."""
        if self.length <= MICROSECOND:
            return None
        middle = self.start + (self.length // MICROSECOND // 2) * MICROSECOND
        return Window(self.start, middle), Window(middle, self.end)

    def bins(self, grain: timedelta) -> Iterator["Window"]:
        """The window cut where KQL's `bin(column, grain)` cuts it; the first and the last may be shorter."""
        start = self.start
        while start < self.end:
            end = min(bin_floor(start, grain) + grain, self.end)
            yield Window(start, end)
            start = end


def bin_floor(moment: datetime, grain: timedelta) -> datetime:
    """Where KQL's `bin()` puts an instant: multiples of the grain counted from 0001-01-01."""
    origin = datetime(1, 1, 1, tzinfo=UTC)
    return origin + (moment - origin) // grain * grain


def merge(windows: Iterable[Window]) -> tuple[Window, ...]:
    """The same instants as disjoint windows in order, adjacent ones joined."""
    merged: list[Window] = []
    for window in sorted(windows):
        if merged and window.start <= merged[-1].end:
            merged[-1] = Window(merged[-1].start, max(merged[-1].end, window.end))
        else:
            merged.append(window)
    return tuple(merged)


def covered_until(windows: Iterable[Window], since: datetime) -> datetime | None:
    """How far the windows reach from `since` without a hole, or None when `since` itself lies in no window.

    A window that ends exactly at `since` counts: nothing lies between the two.
    """
    for window in merge(windows):
        if window.start <= since <= window.end:
            return window.end
    return None


def _short(moment: datetime) -> str:
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f")
    return (text.rstrip("0").rstrip(".")) + "Z"
