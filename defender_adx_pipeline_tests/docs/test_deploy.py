"""deploy/: as far as that can be known without Docker, PostgreSQL and a running systemd."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.load_target import WorkspaceFileTarget

from defender_adx_pipeline.settings import Settings
from defender_adx_pipeline_tests.docs.pages import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
STORAGE = {"POSTGRES_HOST": "localhost", "POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p", "POSTGRES_DB": "d"}


def variables(example: str) -> dict[str, str]:
    lines = (DEPLOY / example).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    parts = [ROOT / "dagster.yaml", DEPLOY / "postgresql.yaml"]
    (tmp_path / "dagster.yaml").write_text("".join(part.read_text() for part in parts))
    return tmp_path


def test_dagster_accepts_the_instance_settings_with_postgresql_behind_them(
    dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in STORAGE.items():
        monkeypatch.setenv(name, value)
    config, _ = dagster_instance_config(str(dagster_home))
    assert config["storage"]["postgres"]["postgres_db"]["db_name"] == {"env": "POSTGRES_DB"}
    storage = InstanceRef.from_dir(str(dagster_home)).storage_data
    assert storage is not None
    assert storage.class_name == "DagsterPostgresStorage"
    # SQLAlchemy 2.1 takes a URL without a driver for psycopg 3, and dagster-postgres brings psycopg2.
    assert "postgresql+psycopg2" in storage.config_yaml


def test_the_code_location_is_a_server_whose_host_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFENDER_ADX_CODE_HOST", "code")
    (origin,) = WorkspaceFileTarget(paths=[str(DEPLOY / "workspace.yaml")]).create_origins()
    assert (origin.location_name, origin.host, origin.port) == ("defender_adx_pipeline", "code", 4000)


def test_every_dagster_process_of_the_compose_file_waits_for_what_it_needs() -> None:
    assert SERVICES.keys() == {"postgresql", "code", "webserver", "daemon"}
    assert SERVICES["code"]["depends_on"] == {"postgresql": {"condition": "service_healthy"}}
    for name in ("webserver", "daemon"):
        assert SERVICES[name]["depends_on"] == {"code": {"condition": "service_healthy"}}
    for service in SERVICES.values():
        named = {mount.split(":")[0] for mount in service.get("volumes", ())}
        assert named <= COMPOSE["volumes"].keys()


def test_only_the_code_location_has_the_settings_of_azure() -> None:
    holders = {name for name, service in SERVICES.items() if "settings.env" in service.get("env_file", ())}
    assert holders == {"code"}
    assert [unit.name for unit in UNITS if "settings.env" in unit.read_text()] == ["defender-adx-code.service"]


def test_the_page_listens_on_the_loopback_address_alone() -> None:
    assert [service["ports"] for service in SERVICES.values() if "ports" in service] == [["127.0.0.1:3000:3000"]]
    assert "--host 127.0.0.1 --port 3000" in (DEPLOY / "systemd" / "defender-adx-webserver.service").read_text()


def test_the_examples_name_settings_that_exist_and_hold_no_secret() -> None:
    names = variables("settings.env.example")
    assert {name.lower() for name in names} <= Settings.model_fields.keys()
    assert names["AZURE_CLIENT_SECRET"] == ""
    assert variables("storage.env.example").keys() == STORAGE.keys() | {"DEFENDER_ADX_CODE_HOST"}
    assert variables("storage.env.example")["POSTGRES_PASSWORD"] == ""


def test_the_image_copies_files_that_are_there_and_that_are_not_ignored() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = {name.removeprefix("./") for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert {line[1:] for line in ignored.splitlines() if line.startswith("!")} == names


def test_compose_and_systemd_start_the_same_commands() -> None:
    for unit in UNITS:
        (command,) = re.findall(r"^ExecStart=/opt/defender-adx/bin/(.+)$", unit.read_text(), re.MULTILINE)
        service = SERVICES[unit.stem.removeprefix("defender-adx-")]
        assert command.split()[:2] == service["command"][:2]
        name = next(option for option in ("--module-name", "--workspace") if option in command)
        assert name in service["command"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # The programs are where they will be installed; here they are beside this interpreter.
        text = unit.read_text().replace("/opt/defender-adx/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(text)
    paths = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
