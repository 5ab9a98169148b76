"""Where a run is killed: what of it, at a request of a kind, before, during or after it, or after a time.

Here: the points and how they are drawn into chains. Not here: killing (`kill_runs`) and what must hold (`kills`).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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

Target = Literal["group", "run", "step", "worker"]
TARGETS: Mapping[Target, int] = {"group": 5, "run": 2, "step": 2, "worker": 1}
"""What is killed, and how often of ten: all processes of a run, the one of the run alone, that of one step, or the
service's ingestion worker. A run that loses a step or waits for a worker goes on to its own end."""

CHAIN = (2, 6)
"""The fewest and the most points of a chain."""


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
    target: Target = "group"
    batching_delay: float = 0.2
    """Seconds until a queued blob is loaded."""
    held: bool = False
    """The killed run's blobs are loaded only after the next run has queued one: only tags keep them apart."""

    def __str__(self) -> str:
        what = f"{self.position} {self.moment.name} {self.number}" if self.moment else f"after {self.seconds:.1f} s"
        loaded = "during the next run" if self.held else f"{self.batching_delay:g} s later"
        return f"{what}, {self.target}, blobs loaded {loaded}"


def draw(dice: random.Random, requests: Mapping[str, int], seconds: float, count: int) -> list[list[Point]]:
    """Chains of points, `count` in all: each point kills a run that resumes what the point before it left.

    Every kind of moment comes in turn, then after a time, and again.

    Args:
        dice: decides the rest.
        requests: how many of each kind a run makes that nobody kills.
        seconds: how long that takes.
        count: of points.
    """
    kinds: list[Moment | None] = [moment for moment in MOMENTS if requests[moment.name]]
    kinds.append(None)
    chains: list[list[Point]] = []
    drawn = 0
    while drawn < count:
        length = min(dice.randint(*CHAIN), count - drawn)
        targets = dice.choices(list(TARGETS), list(TARGETS.values()), k=length)
        # Last what goes on to its own end, after which there is little left to load.
        targets.sort(key=list(TARGETS).index)
        chain = []
        for place, target in enumerate(targets):
            moment = kinds[drawn % len(kinds)]
            chain.append(_point(dice, moment=moment, target=target, requests=requests, seconds=seconds, place=place))
            drawn += 1
        chains.append(chain)
    return chains


def _point(
    dice: random.Random,
    *,
    moment: Moment | None,
    target: Target,
    requests: Mapping[str, int],
    seconds: float,
    place: int,
) -> Point:
    """A point of the run at a place in its chain: the later, the less is left to do."""
    # What goes on must get an answer: a request that hangs would keep it for its whole time-out.
    positions: Sequence[str] = list(POSITIONS) if target in ("group", "run") else ["during", "after"]
    point = Point(
        moment,
        position=dice.choice(positions),
        seconds=dice.uniform(0.0, 0.9 * seconds / (place + 1)),
        target=target,
        batching_delay=dice.choice([0.05, 0.2, 0.2, 1.0, 2.0]),
    )
    if moment is None:
        return point
    held = moment.name in BEFORE_CONFIRMATION and target in ("group", "run") and dice.random() < 0.6
    # With its blobs held, a run does not get beyond the tables that it began with.
    last = max(1, requests[moment.name] // (place + (3 if held else 1)))
    return replace(point, number=dice.randint(1, last), held=held)
