"""What an asset hands to the IO manager: a plan, and the way to read its slices. Nothing is read yet.

Not here: loading (`loading`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.migration.audit import Tally
from defender_adx_pipeline.migration.plan import Plan
from defender_adx_pipeline.migration.reading import SliceReader
from defender_adx_pipeline.migration.sizes import Sizes
from defender_adx_pipeline.migration.slices import Slice


@dataclass(frozen=True, slots=True)
class Extraction:
    """The slices of a plan with their records, lazily. Each iteration reads anew."""

    plan: Plan
    client: HuntingClient = field(repr=False)
    tally: Tally = field(default_factory=Tally)
    lost: str = ""
    """What can no longer be had from Defender, when the table had fallen behind by more than it keeps."""
    sizes: Sizes = field(default_factory=Sizes, repr=False)
    """What the run has learned about answers; shared by its attempts."""

    def __iter__(self) -> Iterator[tuple[Slice, Iterator[dict[str, Any]]]]:
        for item in self.plan.slices:
            yield item, self.records(item)

    def records(self, item: Slice) -> Iterator[dict[str, Any]]:
        """The records that Defender has in a slice."""
        plan = self.plan
        reader = SliceReader(
            self.client,
            plan.configuration.table,
            dynamic_columns=plan.dynamic_columns,
            key=plan.key_columns,
            sizes=self.sizes.of(plan.table),
            taken_at=plan.snapshot.taken_at if plan.snapshot else None,
            pages=plan.pages,
        )
        return reader.records(item)

    def with_plan(self, plan: Plan) -> Self:
        """The same attempt with another round's plan."""
        return replace(self, plan=plan)
