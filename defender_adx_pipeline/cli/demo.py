"""`defender-adx demo`: local tenant, bootstrap, real Dagster runs, and the proof.

Here: the home of a demo, its tenant, and the order of the steps. Not here: the steps (`moving`, `comparing`), and the
demo under chaos (`chaos`).
"""

import hashlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
from rich.console import Console

from defender_adx_pipeline.cli import moving, tenancy
from defender_adx_pipeline.cli.output import console
from defender_adx_pipeline.instants import utc_now
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
    with demo_database(home=home, samples=samples, seed=seed, fresh=fresh, out=out) as (database, admin_url):
        out.print(f"Bootstrap: {moving.prepare_database(database)} statements of kql/ applied")
        now = utc_now()
        window = Window(readable_since(now), now - database.settings.defender_settle)
        moved = moving.move(window, home, out)
        taken = moving.take_snapshots(home, out)
        out.print("Comparing both sides row by row")
        results = [
            *moving.results(database, admin_url, window, moved.attempts),
            *moving.snapshot_results(database, admin_url, taken.attempts),
        ]
    seconds = time.monotonic() - started
    ok = bool(results) and all(result.exact for result in results)
    moving.print_results(results, seconds, out)
    if as_json:
        line = {"ok": ok, "tables": [result.as_dict() for result in results], "seconds": round(seconds, 1)}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
    return 0 if ok else 1


@contextmanager
def demo_database(
    *, home: Path, samples: Path | None, seed: int, fresh: bool, out: Console
) -> Iterator[tuple[Database, str]]:
    """A running tenant on a home, this process's environment set to it: its database, and the admin app's URL."""
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
        with moving.environment({**variables, **dagster}), open_database() as database:
            yield database, variables["LOCAL_TENANT_ADMIN_URL"]


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
