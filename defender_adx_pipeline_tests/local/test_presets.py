"""Each named fault, as the clients that meet it read it."""

from typing import get_args

import orjson
import pytest

from defender_adx_pipeline.defender.classification import classify
from defender_adx_pipeline.local.fault_rules import BadFaultError, Service
from defender_adx_pipeline.local.presets import PRESETS, preset
from defender_adx_pipeline.local.wire import Api

ERRORS = {
    "throttled_minute": "ThrottledError",
    "throttled_hour": "ThrottledError",
    "throttled_cpu": "ThrottledError",
    "too_large": "TooLargeError",
    "preempted": "TooLargeError",
    "bad_gateway": "TooLargeError",
    "gateway_timeout": "TooLargeError",
    "server_error": "TransientError",
    "unavailable": "TransientError",
    "expired_token": "RejectedTokenError",
    "forbidden": "PermissionDeniedError",
    "unresolved": "UnresolvedNameError",
    "request_too_large": "RequestTooLargeError",
}


@pytest.mark.parametrize("api", get_args(Api))
@pytest.mark.parametrize("name", ERRORS)
def test_a_refusal_of_hunting_means_the_same_in_the_words_of_every_api(name: str, api: Api) -> None:
    fault = preset("hunting", name, api=api)
    error = classify(fault.status, fault.headers, fault.body.encode())
    assert type(error).__name__ == ERRORS[name]
    if fault.body.startswith("{"):
        assert set(orjson.loads(fault.body)["error"]) >= {
            "code",
            "message",
            "innerError" if api == "graph" else "target",
        }


def test_a_throttle_tells_its_window_and_with_a_header_its_pause() -> None:
    for name, window, own in (
        ("throttled_minute", "minute", 60.0),
        ("throttled_hour", "hour", 600.0),
        ("throttled_cpu", "cpu", 20.0),
    ):
        for seconds in (None, 700):
            fault = preset("hunting", name, retry_after=seconds)
            throttle = classify(fault.status, fault.headers, fault.body.encode()).throttle  # type: ignore[attr-defined]
            assert (throttle.window, throttle.pause_seconds) == (window, seconds or own)


def test_every_preset_carries_its_name() -> None:
    for service in get_args(Service):
        assert all(preset(service, name).label == name for name in PRESETS[service])


def test_a_preset_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadFaultError, match="expired_sas"):
        preset("storage", "sas_gone")
    with pytest.raises(BadFaultError, match="retries"):
        preset("storage", "server_busy", retries=3)
