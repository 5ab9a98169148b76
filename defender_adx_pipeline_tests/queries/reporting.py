"""What binding a collection came to. Here: counts, differences and the exit code. Not here: binding (`binding`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from defender_adx_pipeline_tests.queries.binding import Bound
from defender_adx_pipeline_tests.queries.extraction import Block

DOCUMENTED, ADX = "documented", "adx"


@dataclass(frozen=True, slots=True)
class Report:
    """Blocks, and where they bind: against the documented schema and against that of ADX."""

    blocks: Sequence[Block]
    bound: Bound

    def binding(self, side: str, blocks: Sequence[Block] | None = None) -> int:
        """How many blocks bind on a side."""
        return sum(not self.bound[block.source][side] for block in (self.blocks if blocks is None else blocks))

    @property
    def status(self) -> int:
        """0 when there are blocks, and as many bind in ADX as documented."""
        return 0 if self.blocks and self.binding(ADX) >= self.binding(DOCUMENTED) else 1

    def lines(self, *, with_unbound: bool = False) -> Iterator[str]:
        """The report, line by line."""
        for block in self.blocks:
            sides = self.bound[block.source]
            only = [side for side in (DOCUMENTED, ADX) if not sides[side]]
            if len(only) == 1:
                (other,) = {DOCUMENTED, ADX} - {*only}
                yield f"BINDS ONLY {only[0]}: {block.source}"
                yield from (f"  {other} {error}" for error in sides[other])
            elif not only and with_unbound:
                yield f"binds nowhere: {block.source}"
                yield from (f"  {error}" for error in sides[ADX])
        of_defender = [block for block in self.blocks if block.is_of_defender]
        for what, chosen in (("blocks", self.blocks), ("of them name a Defender table", of_defender)):
            counts = (self.binding(DOCUMENTED, chosen), self.binding(ADX, chosen))
            yield f"{len(chosen)} {what}: {counts[0]} bind as documented, {counts[1]} in ADX"
