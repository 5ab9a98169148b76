"""Ten demos under chaos: `make chaos SEEDS=10`.

Here: seeds one after the other over one tenant whose Defender data are made once. Not here: a demo under chaos itself
(`cli.chaos`), which is what a user runs. Prints one JSON line for each seed and the sum as the last line.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from defender_adx_pipeline.cli import chaos, demo
from defender_adx_pipeline.cli.output import console


def summary(outcomes: Sequence[chaos.Outcome]) -> dict[str, int]:
    """The sum of all seeds; every number but the first three is zero when all is well."""
    return {
        "seeds": len(outcomes),
        "faults": sum(outcome.faults for outcome in outcomes),
        "rows": sum(result.adx_rows for outcome in outcomes for result in outcome.results),
        "missing": sum(result.missing for outcome in outcomes for result in outcome.results),
        "duplicates": sum(result.duplicates for outcome in outcomes for result in outcome.results),
        "not_exact": sum(not result.exact for outcome in outcomes for result in outcome.results),
        "hung": sum(outcome.hung for outcome in outcomes),
        "unexplained": sum(len(outcome.unexplained) for outcome in outcomes),
        "audit_differences": sum(len(outcome.audit_differences) for outcome in outcomes),
        "calls_over_bound": sum(outcome.hunting_calls > outcome.allowed_calls for outcome in outcomes),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when every seed was exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--home", type=Path, help="keep the tenant here; else a temporary folder")
    parser.add_argument("--tables", type=lambda text: tuple(text.split(",")), help="some event tables, not all")
    chosen = parser.parse_args(arguments)
    out = console(stderr=True)
    outcomes: list[chaos.Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        home = chosen.home or Path(folder) / "home"
        with demo.demo_database(home=home, samples=None, seed=7, fresh=False, out=out) as (database, admin_url):
            arena = chaos.Arena(database, admin_url, home, out, **({"tables": chosen.tables} if chosen.tables else {}))
            for seed in range(chosen.first, chosen.first + chosen.seeds):
                outcome = arena.run(seed)
                outcomes.append(outcome)
                chaos.print_outcome(outcome, out)
                sys.stdout.write(orjson.dumps(outcome.as_dict()).decode() + "\n")
                sys.stdout.flush()
    sys.stdout.write(orjson.dumps(summary(outcomes)).decode() + "\n")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
