"""`defender-adx doctor`: what keeps the pipeline from working, a line each. Not here: the checks (`diagnosis`)."""

import sys
from dataclasses import asdict

import orjson
from rich.markup import escape

from defender_adx_pipeline.cli.output import console
from defender_adx_pipeline.migration.diagnosis import Verdict, diagnose

_COLOURS: dict[Verdict, str] = {"ok": "green", "look": "yellow", "failed": "red", "not tried": "dim"}


def run(*, as_json: bool) -> int:
    """Every check as it ends; 0 when none failed."""
    out = console(stderr=as_json)
    findings = []
    for finding in diagnose():
        findings.append(finding)
        colour = _COLOURS[finding.verdict]
        out.print(f"[{colour}]{finding.verdict:9}[/{colour}] {escape(finding.what)}: {escape(finding.said)}")
    ok = not any(finding.verdict == "failed" for finding in findings)
    if as_json:
        line = {"ok": ok, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
    return 0 if ok else 1
