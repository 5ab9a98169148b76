"""Settings come from the environment once; what is wrong is one clear error that names the variable."""

from datetime import timedelta

import pytest

from defender_adx_pipeline.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = load_settings()
    assert (settings.defender_api, settings.defender_auth, settings.defender_cloud) == ("graph", "secret", "global")
    assert (settings.defender_calls_per_minute, settings.defender_calls_per_hour) == (45, 1500)
    assert (settings.defender_settle, settings.defender_overlap) == (timedelta(minutes=10), timedelta(hours=4))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEFENDER_API", "soap"),
        ("DEFENDER_AUTH", "password"),
        ("DEFENDER_CLOUD", "china"),
        ("DEFENDER_SETTLE", "soon"),
        ("DEFENDER_OVERLAP", "-PT1H"),
        ("DEFENDER_CALLS_PER_MINUTE", "0"),
        ("DEFENDER_SLICE_ROWS", "100001"),
        ("DEFENDER_QUOTA_RESERVE", "1.5"),
        ("DEFENDER_START_DATE", "tomorrow"),
        ("ADX_CLUSTER_URI", "mycluster"),
        ("ADX_CLUSTER_URI", "http://mycluster.westeurope.kusto.windows.net"),
        ("DEFENDER_API_URL", "https://user:pw@graph.microsoft.com"),
        ("DEFENDER_SPEED", "fast"),
    ],
)
def test_a_bad_or_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_a_bad_duration_is_told_with_one_that_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFENDER_SETTLE", "soon")
    with pytest.raises(SettingsError, match=r"DEFENDER_SETTLE: .*PT10M"):
        load_settings()
    for good in ("PT10M", "00:10:00", "600"):
        monkeypatch.setenv("DEFENDER_SETTLE", good)
        assert load_settings().defender_settle == timedelta(minutes=10)


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFENDER_API", "soap")
    monkeypatch.setenv("DEFENDER_TYPO", "1")
    with pytest.raises(SettingsError, match=r"DEFENDER_TYPO.*DEFENDER_API"):
        load_settings()


def test_a_secret_is_in_no_error_and_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "hunter2")
    assert "hunter2" not in repr(load_settings())
    monkeypatch.setenv("DEFENDER_API", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_no_sign_in_is_for_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFENDER_AUTH", "none")
    monkeypatch.setenv("ADX_CLUSTER_URI", "https://a.westeurope.kusto.windows.net")
    with pytest.raises(SettingsError, match="DEFENDER_AUTH"):
        load_settings()
    monkeypatch.setenv("ADX_CLUSTER_URI", "http://127.0.0.1:1234/")
    monkeypatch.setenv("DEFENDER_API_URL", "http://localhost:99")
    assert load_settings().adx_cluster_uri == "http://127.0.0.1:1234"


def test_a_fast_quota_clock_is_for_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFENDER_QUOTA_CLOCK_SCALE", "20")
    with pytest.raises(SettingsError, match="DEFENDER_QUOTA_CLOCK_SCALE"):
        load_settings()


def test_a_missing_setting_is_named_when_it_is_needed() -> None:
    with pytest.raises(SettingsError, match="ADX_CLUSTER_URI"):
        load_settings().require("adx_cluster_uri")
