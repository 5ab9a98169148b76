"""Fixtures of the tests of the source."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from defender_adx_pipeline_tests.defender.loopback import EntraServer


@pytest.fixture
def entra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EntraServer]:
    server = EntraServer(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.ca_file))
    yield server
    server.server.stop()
