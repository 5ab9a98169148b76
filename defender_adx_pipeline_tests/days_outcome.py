"""What came of the simulated days: the numbers of the last line of `make days`. Not here: finding them out."""

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta


@dataclass(slots=True)
class Course:
    """What was done to the pipeline, and when; instants of the simulation."""

    begin: datetime
    end: datetime
    """Up to here rows arrived."""
    outages: list[tuple[datetime, datetime]] = field(default_factory=list)
    """When Defender answered errors."""
    killed: dict[str, datetime] = field(default_factory=dict)
    """Runs whose process was killed."""
    daemon_down: list[tuple[datetime, datetime]] = field(default_factory=list)

    def is_disturbed(self, first: datetime, last: datetime, *, after: timedelta = timedelta(hours=1)) -> bool:
        """Whether Defender answered errors between two instants, or shortly before the first."""
        return any(start <= last and first <= stop + after for start, stop in self.outages)


@dataclass(slots=True)
class Outcome:
    """What is wrong at the end: of the second half every number has to stay 0."""

    days: float = 0.0
    real_minutes: float = 0.0
    held_minutes: float = 0.0
    """Real minutes for which the clock waited for the scheduler."""
    ticks: dict[str, dict[str, int]] = field(default_factory=dict)
    """Evaluations of each schedule and sensor by status."""
    ticks_missed: int = 0
    """Quarters of an hour for which the schedule was not evaluated: while there was no daemon."""
    runs: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    """Steps that loaded a table, or tried to."""
    rows: int = 0
    hunting_calls: int = 0
    longest_lag_minutes: dict[str, int] = field(default_factory=dict)
    """The largest distance of a table's watermark from the present that was seen on the way."""
    lag_minutes: int = 0
    """The largest at the end."""

    missing: int = 0
    duplicates: int = 0
    forgotten: int = 0
    """Daily partitions of event tables that the ledger does not cover, and days without a published snapshot."""
    overlaps: int = 0
    """Steps of one table that ran at the same time."""
    unexplained: int = 0
    """Everything else that is not as it should be."""
    reasons: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether nothing is wrong."""
        return not any((self.missing, self.duplicates, self.forgotten, self.overlaps, self.unexplained))

    def blame(self, reason: str) -> None:
        """Count something that should not be."""
        self.unexplained += 1
        self.reasons.append(reason)

    def facts(self) -> dict[str, object]:
        """The numbers, for JSON."""
        facts = asdict(self)
        del facts["reasons"]
        return {**facts, "exact": self.exact}
