"""The rows of the simulated days: tables of different rhythm, all put there at once, each visible when it has arrived.

Not here: when something goes wrong (`days`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from defender_adx_pipeline.local.data.generate import add_rows
from defender_adx_pipeline.local.data.snapshots import add_state, evolve
from defender_adx_pipeline.local.source import SourceStore

BEFORE = timedelta(days=2)
"""How old the oldest rows are when the simulation begins."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a table has rows."""

    per_day: int
    spans: Sequence[tuple[float, float]] = ((0.0, 1.0),)
    """Parts of the simulated time that have rows, as shares of it; the two days before always have some."""


EVENTS: Mapping[str, Rhythm] = {
    "DeviceLogonEvents": Rhythm(900),
    "EmailEvents": Rhythm(150),
    "IdentityLogonEvents": Rhythm(100),
    # One row in two days, and nothing in between.
    "UrlClickEvents": Rhythm(40, ((0.0, 0.2), (0.55, 0.6))),
    # Each row arrives up to 28 hours after it happened.
    "AlertInfo": Rhythm(16),
}
"""One row in a hundred of the others arrives up to 21 hours late, after the tick has looked for late rows."""

SNAPSHOTS: Mapping[str, int] = {"DeviceTvmInfoGathering": 60, "DeviceTvmHardwareFirmware": 200}
"""Rows of the tables that hold the state of now."""

SWITCHED = "IdentityLogonEvents"
"""The table that somebody switches off and on again."""


def fill(store: SourceStore, begin: datetime, end: datetime, seed: int) -> None:
    """Put all rows there; the last arrives before the end."""
    length = end - begin
    for name, rhythm in EVENTS.items():
        spans = [(begin + length * first, begin + length * last) for first, last in rhythm.spans]
        for first, last in [(begin - BEFORE, begin), *spans]:
            count = max(1, round(rhythm.per_day * ((last - first) / timedelta(days=1))))
            # The last minutes stay empty: what arrives after the end is taken to arrive with it.
            add_rows(store, name, count, first, min(last, end - timedelta(minutes=15)), seed=seed, created=end)
    for name, rows in SNAPSHOTS.items():
        add_state(store, name, rows, seed=seed)


def move_states(store: SourceStore, seed: int) -> None:
    """Rows of the snapshot tables come, go and change."""
    for name in SNAPSHOTS:
        evolve(store, name, new=3, gone=2, changed=4, seed=seed)
