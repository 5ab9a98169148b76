"""How long the code location takes to load, beside `import dagster` alone: `python benchmarks/loading_definitions.py`.

A process of its own each time, the two in turn, so that both see the same machine. Loading is what a code server does
before it can answer: import, build every definition, and write the snapshot that the web server asks for. Nothing is
asserted: the figures are printed, and the last line is JSON. What a run waited for says `python -X importtime`.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import orjson

_DAGSTER = "import dagster"
_DEFINITIONS = "from defender_adx_pipeline.definitions import defs; defs().get_repository_def()"
_SNAPSHOT = (
    "import dagster as dg; from dagster._core.remote_representation.external_data import RepositorySnap;"
    "from defender_adx_pipeline.definitions import defs;"
    "dg.serialize_value(RepositorySnap.from_def(defs().get_repository_def()))"
)
PROGRAMS = {"import dagster": _DAGSTER, "definitions": _DEFINITIONS, "definitions and snapshot": _SNAPSHOT}


@dataclass(frozen=True, slots=True)
class Took:
    """One process, in seconds."""

    cpu: float
    """Of the process and of the kernel for it: what the machine would take if it did nothing else."""
    wall: float


def took(program: str) -> Took:
    """Run a program in a process of its own."""
    started = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{program!r} ended with {os.waitstatus_to_exitcode(status)}")
    return Took(usage.ru_utime + usage.ru_stime, wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of each program, one after the other (default: 7)")
    rounds = parser.parse_args().rounds
    seen = [{name: took(program) for name, program in PROGRAMS.items()} for _ in range(rounds)]
    median = {
        name: Took(*(statistics.median(getattr(each[name], field) for each in seen) for field in ("cpu", "wall")))
        for name in PROGRAMS
    }
    base = median["import dagster"]
    for name, middle in median.items():
        print(f"{name:25} {middle.cpu:5.2f} s processor  {middle.wall:5.2f} s  {middle.cpu / base.cpu:4.1f} times")
    print(orjson.dumps({"rounds": rounds, "median": {name: asdict(each) for name, each in median.items()}}).decode())


if __name__ == "__main__":
    main()
