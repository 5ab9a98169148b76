"""Seven digits stay; a datetime made of them rounds down."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.instants import InvalidInstantError, parse_instant, sort_key, to_text

ticks = st.integers(0, 10_000_000 * 86_400 * 400)
BASE = datetime(2026, 1, 1, tzinfo=UTC)


def spelled(tick: int, *, short: bool) -> str:
    seconds, fraction = divmod(tick, 10_000_000)
    text = (BASE + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S") + f".{fraction:07d}"
    return (text.rstrip("0").rstrip(".") if short else text) + "Z"


@given(ticks, ticks, st.booleans(), st.booleans())
def test_the_key_orders_as_the_instants_do_however_they_are_spelled(a: int, b: int, s: bool, t: bool) -> None:
    assert (sort_key(spelled(a, short=s)) < sort_key(spelled(b, short=t))) == (a < b)
    assert (sort_key(spelled(a, short=s)) == sort_key(spelled(b, short=t))) == (a == b)


@given(ticks, st.booleans())
def test_a_datetime_is_the_instant_rounded_down(tick: int, short: bool) -> None:
    assert parse_instant(spelled(tick, short=short)) == BASE + timedelta(microseconds=tick // 10)


@given(ticks)
def test_a_datetime_is_written_with_seven_digits(tick: int) -> None:
    moment = parse_instant(spelled(tick, short=False))
    assert to_text(moment) == sort_key(to_text(moment))
    assert parse_instant(to_text(moment)) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00.12345678Z", "2026-13-01T00:00:00Z"]
)
def test_text_that_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(InvalidInstantError):
        parse_instant(text)


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00", "2026-01-01T00:00:00.0000000+00:00"])
def test_the_spellings_of_both_services_are_read(text: str) -> None:
    assert parse_instant(text) == BASE
