"""What the code location is made of, and that it loads: without network, settings or a warning of Dagster's.

Whoever changes a definition renews the text that it is compared with, and reviews the difference:

    DEFENDER_ADX_RENEW=1 .venv/bin/pytest defender_adx_pipeline_tests/defs/test_definitions.py
"""

import os
import re
import subprocess
import sys
from difflib import unified_diff
from pathlib import Path
from typing import Any

import orjson
import pytest

import defender_adx_pipeline
from defender_adx_pipeline_tests.defs import definitions_text

RENEW = "DEFENDER_ADX_RENEW"
COMMITTED = Path(__file__).with_name("definitions.txt")
ROOT = Path(defender_adx_pipeline.__file__).parent.parent
SCRIPTS = Path(sys.executable).parent

_NOT_OURS = re.compile(r"The `__fields__` attribute is deprecated.*dagster_model")
"""Dagster 1.13 asks a resource's class for pydantic 1's field list."""


_OF_THE_COMMAND = "SupersessionWarning: Function `definitions_validate_command` is superseded"


def bare_environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    """The environment of a process without any setting of ours, but for those given."""
    ours = ("AZURE_", "ADX_", "DEFENDER_", "DAGSTER_", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "DAGSTER_HOME": str(tmp_path), **settings}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The code location, as a process loads it that has no settings and no network."""
    result = subprocess.run(
        [sys.executable, "-m", definitions_text.__name__],
        env=bare_environment(tmp_path_factory.mktemp("home")),
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    loaded: dict[str, Any] = orjson.loads(result.stdout)
    return loaded


def test_the_definitions_are_those_that_were_reviewed_last(loaded: dict[str, Any]) -> None:
    text = loaded["text"]
    if os.environ.get(RENEW):
        COMMITTED.write_text(text, encoding="utf-8")
    committed = COMMITTED.read_text(encoding="utf-8")
    difference = unified_diff(committed.splitlines(), text.splitlines(), COMMITTED.name, "now", lineterm="", n=1)
    told = "\n".join(difference)
    assert not told, f"if this is meant, run the test again with {RENEW}=1, and commit the file:\n{told}"


def test_loading_without_network_and_settings_shows_no_warning(loaded: dict[str, Any]) -> None:
    told = [warning for warning in loaded["warnings"] if not _NOT_OURS.search(warning)]
    assert told == []


def test_a_process_that_would_connect_somewhere_fails(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(
        "import socket\ndef defs():\n    socket.create_connection(('127.0.0.1', 9))\n", encoding="utf-8"
    )
    asked = (
        "import sys, types, runpy; import definitions;"
        "sys.modules['defender_adx_pipeline.definitions'] = definitions;"
        f"runpy.run_module({definitions_text.__name__!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", asked],
        env=bare_environment(tmp_path, PYTHONPATH=os.pathsep.join((str(tmp_path), str(ROOT)))),
        capture_output=True,
        check=False,
        text=True,
    )
    assert result.returncode != 0
    assert "loading the code location connected to 127.0.0.1" in result.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        ("dagster", "definitions", "validate", "-w", "workspace.yaml"),
        ("dg", "check", "defs"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("settings", [{}, {"DEFENDER_OVERLAP": "four hours"}], ids=["no settings", "a wrong setting"])
def test_dagster_finds_nothing_wrong_with_the_code_location(
    command: tuple[str, ...], settings: dict[str, str], tmp_path: Path
) -> None:
    result = subprocess.run(
        [str(SCRIPTS / command[0]), *command[1:]],
        env=bare_environment(tmp_path, **settings),
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "Warning" not in output.replace(_OF_THE_COMMAND, "")
