"""Where a run is killed: at a request of a kind, before, during or after it, or after a time. Drawn by `kills`."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from defender_adx_pipeline.adx.state_kql import AUDIT, CONFIGURATION, LEDGER


@dataclass(frozen=True, slots=True)
class Moment:
    """A kind of request to the tenant."""

    name: str
    service: str
    match: str = ""
    method: str = ""

    def is_of(self, request: Any) -> bool:
        """Whether a logged request is of this kind."""
        text = request.statement or request.path
        return request.service == self.service and self.match in text and self.method in ("", request.method)


MOMENTS = (
    Moment("count in Defender", "hunting", "summarize Rows"),
    Moment("hunting query over a window", "hunting", "where Timestamp >="),
    Moment("plan, queue and confirm in the ledger", "engine", f".append ['{LEDGER}']"),
    Moment("upload", "storage", method="PUT"),
    Moment("queue message", "storage", method="POST"),
    Moment("look for tags", "engine", "where Tags has_any"),
    Moment("count in ADX", "engine", "ingestion_time()"),
    Moment("watermark", "engine", f".append {CONFIGURATION}"),
    Moment("audit", "engine", f".append ['{AUDIT}']"),
)
BY_NAME = {moment.name: moment for moment in MOMENTS}
BEFORE_CONFIRMATION = ("hunting query over a window", "upload", "queue message")
"""Moments that a run reaches although none of its blobs is loaded."""
IN_FLIGHT = 0.5
"""Seconds by which the tenant is late with a request whose sender is killed meanwhile."""

POSITIONS = {"before": "hang", "during": "delay", "after": "lost_reply"}
"""Where in a request the kill comes, and the fault by which the tenant holds the request there."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run is killed."""

    moment: Moment | None
    """None: after a time."""
    number: int = 1
    """Of the request among those of its kind."""
    position: str = "before"
    seconds: float = 0.0
    """Without a moment: from the run's first request on."""
    whole_group: bool = True
    """Else the run's own process alone: its steps have to notice."""
    batching_delay: float = 0.2
    """Seconds until a queued blob is loaded."""
    held: bool = False
    """The killed run's blobs are loaded only after the next run has queued one: only tags keep them apart."""

    def __str__(self) -> str:
        what = f"{self.position} {self.moment.name} {self.number}" if self.moment else f"after {self.seconds:.1f} s"
        loaded = "during the next run" if self.held else f"{self.batching_delay:g} s later"
        return f"{what}, {'group' if self.whole_group else 'parent'}, blobs loaded {loaded}"


def draw(dice: random.Random, requests: Mapping[str, int], seconds: float, count: int) -> list[Point]:
    """Points in the life of a run: every kind of moment in turn, then after a time, and again."""
    kinds: list[Moment | None] = [moment for moment in MOMENTS if requests[moment.name]]
    kinds.append(None)
    points = []
    for index in range(count):
        moment = kinds[index % len(kinds)]
        point = Point(
            moment,
            position=dice.choice(list(POSITIONS)),
            seconds=dice.uniform(0.0, 0.9 * seconds),
            whole_group=dice.random() < 0.7,
            batching_delay=dice.choice([0.05, 0.2, 0.2, 1.0, 3.0]),
        )
        if moment is not None:
            held = moment.name in BEFORE_CONFIRMATION and dice.random() < 0.6
            # With its blobs held, a run does not get beyond the tables that it began with.
            last = max(1, requests[moment.name] // 3) if held else requests[moment.name]
            point = replace(point, number=dice.randint(1, last), held=held)
        points.append(point)
    return points
