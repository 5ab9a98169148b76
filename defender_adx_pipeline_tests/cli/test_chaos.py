"""When a demo under chaos counts as passed, and what is told of it."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from defender_adx_pipeline.cli.chaos import Outcome, print_outcome
from defender_adx_pipeline.cli.comparing import TableResult
from defender_adx_pipeline_tests.chaos import summary

EXACT = TableResult("DeviceInfo", "DeviceInfoRaw", 10, 10, 0, 0, "2026-01-01T00:00:00.0000000Z", "Success", 3)
GOOD = Outcome(
    seed=3,
    share=0.1,
    results=[EXACT],
    fired={"hunting": {"reset": 2}, "worker": {"twice": 1}},
    calls={"hunting": 17, "engine": 40},
    quiet_calls=10,
    passes=[1],
)


def test_a_run_that_is_exact_and_within_its_bound_has_passed() -> None:
    assert (GOOD.ok, GOOD.faults, GOOD.allowed_calls) == (True, 3, 17)
    assert summary([GOOD, GOOD]) == {
        "seeds": 2,
        "faults": 6,
        "rows": 20,
        "missing": 0,
        "duplicates": 0,
        "not_exact": 0,
        "hung": 0,
        "unexplained": 0,
        "audit_differences": 0,
        "calls_over_bound": 0,
    }


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"results": [replace(EXACT, missing=2)]}, "missing"),
        ({"results": [replace(EXACT, duplicates=2)]}, "duplicates"),
        ({"results": [replace(EXACT, audit_status="Failed")]}, "not_exact"),
        ({"hung": 1}, "hung"),
        ({"calls": {"hunting": 18}}, "calls_over_bound"),
        ({"unexplained": ["DeviceInfo: something failed"]}, "unexplained"),
        ({"audit_differences": {"DeviceInfo": -1}}, "audit_differences"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_that_is_not_right_fails_the_run_and_is_counted(change: dict, counted: str) -> None:
    bad = replace(GOOD, **change)
    assert not bad.ok
    assert summary([bad])[counted] > 0


def test_a_run_without_a_table_has_shown_nothing() -> None:
    assert not replace(GOOD, results=[]).ok


def test_faults_failures_and_calls_are_told() -> None:
    out = Console(file=StringIO(), width=200)
    print_outcome(replace(GOOD, reasons=["DeviceInfo: [refused]"], hung=1, audit_differences={"DeviceInfo": 1}), out)
    told = out.file.getvalue()  # type: ignore[attr-defined]
    for part in ("reset 2", "twice 1", "DeviceInfo: [refused]", "+1 audit rows", "did not end", "17 allowed"):
        assert part in told
