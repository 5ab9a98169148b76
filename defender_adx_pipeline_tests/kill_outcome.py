"""What came of the kills: the numbers of the last line of `make kills`. For `kills`, and for those who call it."""

from dataclasses import asdict, dataclass, field, fields

MIDDLE_SHARE = 0.75
"""Of the kills, those that have to hit a run that is not over; else the points prove little."""


@dataclass(slots=True)
class Outcome:
    """What is wrong after the kills; every number has to stay 0 but for the first two."""

    cases: int = 0
    middle: int = 0
    """Kills that hit a run before all its tables were done."""
    missing: int = 0
    duplicates: int = 0
    watermark_past_hole: int = 0
    """Rows of Defender before a watermark that ADX did not have after the kill."""
    unexplained: int = 0
    """Runs that hang or fail, audit rows that do not add up, rows that an idle run still loads, slices left open."""
    reasons: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether nothing is wrong."""
        return not any((self.missing, self.duplicates, self.watermark_past_hole, self.unexplained))

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and the kills were no blanks."""
        return self.exact and self.middle >= MIDDLE_SHARE * self.cases

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def blame(self, reason: str) -> None:
        """Count something that should not be."""
        self.unexplained += 1
        self.reasons.append(reason)

    def facts(self) -> dict[str, int]:
        """The numbers, for JSON."""
        facts = asdict(self)
        del facts["reasons"]
        return facts
