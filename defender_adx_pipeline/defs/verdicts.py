"""What a check found, in the two forms that Dagster takes: from the body of a step, and from anywhere else.

Not here: what is found (`raw_results`, `typed_results`, `drop_guard`, `values_fit`, `no_duplicates`), and the specs
(`checks`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg

from defender_adx_pipeline.defs.checks import COMPLETENESS

ERROR: Final = dg.AssetCheckSeverity.ERROR
WARN: Final = dg.AssetCheckSeverity.WARN


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of an asset found."""

    asset: dg.AssetKey
    check: str
    passed: bool
    said: str
    severity: dg.AssetCheckSeverity = ERROR
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> dg.AssetCheckKey:
        """The check."""
        return dg.AssetCheckKey(self.asset, self.check)

    def result(self) -> dg.AssetCheckResult:
        """For the body of an asset or of a check."""
        return dg.AssetCheckResult(**self._told())

    def evaluation(self) -> dg.AssetCheckEvaluation:
        """For a sensor, and for a step whose body does not go on."""
        return dg.AssetCheckEvaluation(**self._told(), blocking=self.check == COMPLETENESS)

    def _told(self) -> dict[str, Any]:
        return {
            "asset_key": self.asset,
            "check_name": self.check,
            "passed": self.passed,
            "severity": self.severity,
            "description": self.said,
            "metadata": self.metadata,
        }
