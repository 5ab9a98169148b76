"""`defender-adx demo`: local tenant, bootstrap, real Dagster runs, and the proof.

Here: the order of the steps and what is printed. Not here: comparing (`comparing`) and the runs (`defs.launch`, started
as processes of their own).
"""

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Column, Table

from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.cli import tenancy
from defender_adx_pipeline.cli.comparing import TableResult, compare_table
from defender_adx_pipeline.cli.output import console
from defender_adx_pipeline.cli.progress import Bars
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.agenda import read_agenda
from defender_adx_pipeline.migration.connections import Database, open_database
from defender_adx_pipeline.migration.scope import readable_since
from defender_adx_pipeline.migration.windows import Window

_SAMPLES = "samples.sha256"

CLOCK_SCALE = 20.0
"""A quota minute of the demo's tenant lasts 3 seconds: 45 calls in each, as strictly as the real one."""


def run(*, home: Path, samples: Path | None, seed: int, fresh: bool, as_json: bool) -> int:
    """The whole demo; 0 when every table is exact."""
    started = time.monotonic()
    out = console(stderr=as_json)
    if fresh or _brings_new_samples(home, samples):
        out.print(f"Beginning anew in {home}: what an earlier demo left there is removed")
        _forget(home)
    home.mkdir(parents=True, exist_ok=True)
    if samples is not None:
        (home / _SAMPLES).write_text(_digest(samples))
    out.print(f"Starting the local tenant in {home} (first time: making 30 days of data)")
    options = tenant_options(samples=samples, seed=seed, clock_scale=CLOCK_SCALE)
    with tenancy.running_tenant(home, options) as variables:
        dagster = tenancy.dagster_environment(home)
        with _environment({**variables, **dagster}), open_database() as database:
            results = _move(database, variables["LOCAL_TENANT_ADMIN_URL"], home, out)
    seconds = time.monotonic() - started
    ok = bool(results) and all(result.exact for result in results)
    _print_results(results, seconds, out)
    if as_json:
        line = {"ok": ok, "tables": [result.as_dict() for result in results], "seconds": round(seconds, 1)}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
    return 0 if ok else 1


def _brings_new_samples(home: Path, samples: Path | None) -> bool:
    """Whether the samples are other ones than the home was made with.

    Samples may bring columns of their own, or spell one otherwise (`ISP` for `Isp`): rows that were loaded before would
    then differ from the tenant's, which has one spelling for all of its rows.
    """
    if samples is None or not home.exists():
        return False
    known = home / _SAMPLES
    return not known.exists() or known.read_text() != _digest(samples)


def _forget(home: Path) -> None:
    """Remove the home of an earlier demo, and nothing else.

    Raises:
        TenantStartError: the folder holds something, but no local tenant.
    """
    if not home.exists():
        return
    if any(home.iterdir()) and not (home / "defender.duckdb").exists():
        raise tenancy.TenantStartError(
            f"{home} is not the home of an earlier demo, so nothing of it was removed. Choose another --home."
        )
    shutil.rmtree(home)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tenant_options(*, samples: Path | None, seed: int, clock_scale: float) -> list[str]:
    """Options of `defender-adx local` for a tenant process."""
    options = ["--seed", str(seed), "--clock-scale", str(clock_scale)]
    return [*options, "--samples", str(samples)] if samples else options


def serve_tenant(*, home: Path, samples: Path | None, seed: int, clock_scale: float) -> int:
    """Run the tenant in this process until it is told to stop."""
    try:
        from defender_adx_pipeline.local.tenant import LocalTenant  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise tenancy.TenantStartError(
            f"the local tenant needs the extra `local` ({error}): pip install 'defender_adx_pipeline[local]'"
        ) from error
    home.mkdir(parents=True, exist_ok=True)
    # Blocked before there are threads, which inherit it: a thread that took the signal would end the process at once,
    # and the state would not be closed.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with LocalTenant(home, seed=seed, samples=samples, quota_clock_scale=clock_scale) as tenant:
        variables = {**tenant.environment(), **tenancy.dagster_environment(home)}
        for name, value in variables.items():
            sys.stdout.write(f"export {name}='{value}'\n")
        sys.stdout.flush()
        signal.sigwait(stops)
    return 0


def _move(database: Database, admin_url: str, home: Path, out: Console) -> list[TableResult]:
    settings = database.settings
    report = bootstrap(
        database.adx,
        client_id=settings.azure_client_id,
        tenant_id=settings.azure_tenant_id,
        tables=tuple(database.catalogue.values()),
    )
    out.print(f"Bootstrap: {len(report.applied)} statements of kql/ applied")
    now = utc_now()
    window = Window(readable_since(now), now - settings.defender_settle)
    attempts = _run_dagster(window, home, out)
    out.print("Comparing both sides row by row")
    return _results(database, admin_url, window, attempts)


def _run_dagster(window: Window, home: Path, out: Console) -> Mapping[str, Mapping[str, Any]]:
    """One run for each category of tables, over all days; the attempts by table."""
    attempts: dict[str, Mapping[str, Any]] = {}
    first, last = window.start.date().isoformat(), window.end.date().isoformat()
    tables = load_catalogue().events()
    groups = itertools.groupby(sorted(tables, key=lambda table: table.group), key=lambda table: table.group)
    runs = [f"{group}={','.join(table.name for table in members)}" for group, members in groups]
    with (home / "runs.log").open("ab") as log, Bars(out, len(tables)) as bars:
        for line in _launch(first, last, runs, log):
            match line["event"]:
                case "run":
                    bars.begin(line["label"], line["tables"])
                case "attempt":
                    attempts[line["TableName"]] = line
                    bars.advance(line["TableName"], int(line["RecordCount"]), str(line["Status"]))
                case "failure":
                    bars.failed(f"{line['step']}: {(line['error'].strip() or 'no message').splitlines()[0]}")
    return attempts


def _launch(first: str, last: str, runs: Sequence[str], log: Any) -> Iterator[dict[str, Any]]:
    """Start a process that makes the runs one after the other, and give its lines as they come."""
    command = [sys.executable, "-m", "defender_adx_pipeline.defs.launch", "--first", first, "--last", last, *runs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:  # noqa: S603 - our own command
        for line in process.stdout or ():
            if line.startswith(b"{"):
                yield orjson.loads(line)


def _results(
    database: Database, admin_url: str, window: Window, attempts: Mapping[str, Mapping[str, Any]]
) -> list[TableResult]:
    results = []
    for item in read_agenda(database.state, database.catalogue).tables:
        name = item.table.name
        source, there, missing, doubled = compare_table(database, admin_url, name, item.destination_table, window)
        attempt = attempts.get(name, {})
        results.append(
            TableResult(
                table=name,
                destination=item.destination_table,
                source_rows=source,
                adx_rows=there,
                missing=missing,
                duplicates=doubled,
                watermark=item.watermark,
                audit_status=str(attempt.get("Status", "no run")),
                calls=int(attempt.get("calls", 0)),
            )
        )
    return results


def _print_results(results: Sequence[TableResult], seconds: float, out: Console) -> None:
    table = Table(
        Column("Table", no_wrap=True), "Defender", "ADX", "Missing", "Duplicates", "Watermark", "Audit", "Calls"
    )
    for result in results:
        colour = "green" if result.exact else "red"
        numbers = (result.source_rows, result.adx_rows, result.missing, result.duplicates)
        table.add_row(
            f"[{colour}]{result.table}[/{colour}]",
            *(f"{number:,}" for number in numbers),
            result.watermark,
            result.audit_status,
            str(result.calls),
        )
    out.print(table)
    exact, rows = sum(result.exact for result in results), sum(result.adx_rows for result in results)
    out.print(
        f"{exact} of {len(results)} tables exact, {rows:,} rows in ADX, {seconds:.0f} s. See it in Dagster: make ui"
    )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables set for this process and its children, and put back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
