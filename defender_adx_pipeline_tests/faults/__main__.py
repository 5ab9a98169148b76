"""`python -m defender_adx_pipeline_tests.faults`, for people and for make; see `matrix`."""

import argparse
import sys
from collections.abc import Sequence

import orjson

from defender_adx_pipeline_tests.faults import cases_peers, matrix
from defender_adx_pipeline_tests.faults.bench import open_bench
from defender_adx_pipeline_tests.kills import run_kills, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when nothing is missing, doubled or unexplained."""
    parser = argparse.ArgumentParser(prog="faults", description="Faults of every kind, each through whole runs.")
    parser.add_argument(
        "--subset", action="store_true", help="some of each group, every kind of error among them, and no long one"
    )
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill -9 at so many points, too")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this text in their group or name")
    parser.add_argument(
        "--reference", action="store_true", help="the flow before this project through its situations, beside ours"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes, each with a bench of its own")
    parser.add_argument("--list", action="store_true", help="show the cases and run nothing")
    chosen = parser.parse_args(arguments)
    if chosen.reference:
        with open_bench() as bench:
            return 0 if cases_peers.compare_all(bench, tell) else 1
    if chosen.list:
        cases = matrix.chosen(matrix.all_cases(), subset=chosen.subset, only=chosen.only)
        tell("\n".join(matrix.listed(cases)))
        return 0
    sums = matrix.run_in_jobs(subset=chosen.subset, only=chosen.only, jobs=chosen.jobs, say=tell)
    if chosen.kills:
        tell("-- kill -9 at random points")
        sums.add_kills(run_kills(chosen.kills, seed=7, say=tell))
    for objection in sums.objections:
        tell(objection)
    tell(orjson.dumps(sums.facts()).decode())
    return 0 if sums.ok else 1


if __name__ == "__main__":
    sys.exit(main())
