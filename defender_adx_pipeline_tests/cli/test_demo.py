"""What the demo does with a home that an earlier one left."""

from pathlib import Path

from defender_adx_pipeline.cli.demo import _SAMPLES, _brings_new_samples, _digest


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
