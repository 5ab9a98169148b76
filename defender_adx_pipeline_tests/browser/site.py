"""`make ui` as a process: started on a free port over a home of its own, awaited, ended, and its children counted.

Here: the process, what it serves, and its tenant past the page: commands, faults, the truth of both sides. Not here:
clicking (`pages`).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import requests

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.cli import tenancy
from defender_adx_pipeline_tests.browser import SETTINGS

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
LOCATION = "defender_adx_pipeline"
_START_SECONDS = 300.0
_WORKSPACE = f"""\
load_from:
  - python_module:
      module_name: defender_adx_pipeline_tests.browser.location
      working_directory: {ROOT}
      location_name: {LOCATION}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A running `make ui`."""

    url: str
    home: Path
    log: Path
    process: subprocess.Popen[bytes]

    def environment(self) -> dict[str, str]:
        """The settings that lead to the tenant of this site, for a command beside it."""
        return {**os.environ, **tenancy.environment(self.home), **tenancy.dagster_environment(self.home)}

    def command(self, *arguments: str) -> str:
        """What a `defender-adx` command prints on this tenant; it must succeed."""
        command = [VENV / "bin" / "defender-adx", *arguments]
        return subprocess.run(command, env=self.environment(), check=True, capture_output=True, text=True).stdout

    def query(self, text: str) -> list[dict[str, Any]]:
        """The rows of a query to ADX."""
        return [orjson.loads(line) for line in self.command("query", "--json", text).splitlines()]

    def graphql(self, query: str) -> Any:
        """The `data` of a query to Dagster."""
        answer = requests.post(f"{self.url}/graphql", json={"query": query}, timeout=60).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def family(self) -> list[psutil.Process]:
        """Every process that this one started, directly or not."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def change_settings(self, **settings: str) -> None:
        """Settings that the code location has from its next load on, over those of the tenant; none: as before."""
        path = Path(self.environment()["DAGSTER_HOME"]) / SETTINGS
        path.write_bytes(orjson.dumps(settings))

    def configure(self, condition: str, *, is_active: bool) -> None:
        """Switch tables on or off, as a person would: by rows appended to `MigrationConfiguration`."""
        rows = f"VwLatestMigrationConfiguration | where {condition} | extend IsActive = {str(is_active).lower()}"
        self.manage(f".set-or-append MigrationConfiguration <| {rows}")

    def manage(self, command: str) -> None:
        """A management command in ADX, past the pipeline."""
        environment = self.environment()
        body = {"db": environment["ADX_DATABASE"], "csl": command}
        answer = requests.post(f"{environment['ADX_CLUSTER_URI']}/v1/rest/mgmt", json=body, timeout=60)
        assert answer.ok, answer.text

    def admin(self, method: str, path: str, **given: Any) -> requests.Response:
        """A call of the tenant's admin app."""
        address = f"{self.environment()['LOCAL_TENANT_ADMIN_URL']}/{path}"
        answer = requests.request(method, address, timeout=60, **given)
        assert answer.ok, answer.text
        return answer

    @contextmanager
    def failing(self, service: str, kind: str, **rule: Any) -> Iterator[None]:
        """Calls of a service go wrong meanwhile; `match` says which, and `times` how many."""
        fault = {"service": service, "kind": kind, "times": None, **rule}
        self.admin("POST", "faults", json=fault)
        try:
            yield
        finally:
            self.admin("DELETE", "faults")

    def defender_rows(self, table: str, day: str, last: str | None = None) -> Counter[tuple[str, ...]]:
        """How often Defender has each row of a day, or of all up to a last one, by its key.

        Asked of the tenant's store, past its hunting API.
        """
        bounds = {"table": table, "start": f"{day}T00:00:00+00:00", "end": f"{last or day}T23:59:59.999999+00:00"}
        return _keys(table, self.admin("GET", "source/rows", params=bounds).text.splitlines())

    def adx_rows(self, table: str, day: str, last: str | None = None) -> Counter[tuple[str, ...]]:
        """How often ADX has each raw record of a day, or of all up to a last one, by the key of the row."""
        field = f'todatetime(Records["{load_catalogue()[table].time_column}"])'
        window = f"{field} >= datetime({day}) and {field} < datetime({last or day}) + 1d"
        return Counter(
            _key(table, row["Records"]) for row in self.query(f"{table}Raw | where {window} | project Records")
        )


@contextmanager
def serving(home: Path, *, as_shipped: bool = True) -> Iterator[Site]:
    """`make ui` over a home, answering; ended afterwards, with all of its processes, whatever happened.

    Args:
        home: of the tenant and of Dagster.
        as_shipped: with the project's own workspace; otherwise with that of `location`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home.with_suffix(".log")
    # The environment that `make` finds is up to date: this run came out of it.
    command = ["make", "-o", VENV / ".installed", "ui", f"VENV={VENV}", f"DEMO={home}", f"PORT={port}"]
    if not as_shipped:
        workspace = home.with_suffix(".yaml")
        workspace.write_text(_WORKSPACE)
        command.append(f"UI=$(BIN)/defender-adx bootstrap && exec $(BIN)/dagster dev -w {workspace} --port {port}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_plain(os.environ), stdout=output, stderr=output, start_new_session=True
        )
    site = Site(f"http://127.0.0.1:{port}", home, log, process)
    try:
        eventually(lambda: _answers(site), _START_SECONDS, f"make ui did not come up: {log}")
        yield site
    finally:
        family = site.family() if process.poll() is None else []
        interrupt(site)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in family:
            if child.is_running():
                child.kill()


def interrupt(site: Site) -> None:
    """What Ctrl-C in a terminal does: SIGINT to every process of the foreground group."""
    if site.process.poll() is None:
        os.killpg(site.process.pid, signal.SIGINT)


def eventually(condition: Callable[[], object], seconds: float, complaint: str) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


def _keys(table: str, lines: list[str]) -> Counter[tuple[str, ...]]:
    return Counter(_key(table, orjson.loads(line)) for line in lines)


def _key(table: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    found = load_catalogue()[table]
    return tuple(str(record.get(name)) for name in (found.time_column or "", *found.identity))


def _answers(site: Site) -> bool:
    assert site.process.poll() is None, f"make ui ended:\n{site.log.read_text()}"
    try:
        return requests.get(f"{site.url}/server_info", timeout=5).ok
    except requests.ConnectionError:
        return False


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables of a `make` around this run, and without settings of a real tenant."""
    foreign = ("MAKE", "MFLAGS", "AZURE_", "ADX_", "DEFENDER_", "DAGSTER_")
    return {name: value for name, value in environment.items() if not name.startswith(foreign)}
