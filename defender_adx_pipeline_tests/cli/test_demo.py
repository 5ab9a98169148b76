"""What the demo does with a home that an earlier one left."""

from pathlib import Path

import pytest

from defender_adx_pipeline.cli.demo import _SAMPLES, _brings_new_samples, _digest, _forget
from defender_adx_pipeline.cli.tenancy import TenantStartError


def test_samples_that_the_home_was_not_made_with_begin_it_anew(tmp_path: Path) -> None:
    home, one, two = tmp_path / "home", tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("1")
    two.write_text("2")
    assert not _brings_new_samples(home, one)
    home.mkdir()
    assert not _brings_new_samples(home, None)
    assert _brings_new_samples(home, one)
    (home / _SAMPLES).write_text(_digest(one))
    assert not _brings_new_samples(home, one)
    assert not _brings_new_samples(home, None)
    assert _brings_new_samples(home, two)


def test_only_the_home_of_a_demo_is_ever_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(TenantStartError, match="nothing of it was removed"):
        _forget(precious)
    assert (precious / "thesis.txt").exists()
    (precious / "defender.duckdb").touch()
    _forget(precious)
    assert not precious.exists()
    _forget(precious)
