"""Instants as Defender and Kusto write them: UTC text with up to seven fractional digits (100 ns).

Here: reading such text, ordering it, and rounding it to the microsecond that a Python datetime can hold. Not here:
windows and watermarks (`migration`). A datetime drops the seventh digit, so the text stays the truth for a row's time.
"""

import re
from datetime import UTC, datetime, timedelta

EPOCH_1900 = datetime(1900, 1, 1, tzinfo=UTC)
"""The configured watermark of a table that has not been loaded yet."""

MICROSECOND = timedelta(microseconds=1)

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?(?:Z|\+00:?00)?")


class InvalidInstantError(ValueError):
    """Text that is not a UTC instant with at most seven fractional digits."""


def sort_key(text: str) -> str:
    """The instant padded to seven digits, `2026-08-01T01:02:03.1234567Z`: ordering these as text orders the instants.

    Raises:
        InvalidInstantError: the text is not a UTC instant.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        msg = f"{text!r} is not a UTC instant such as 2026-08-01T01:02:03.1234567Z"
        raise InvalidInstantError(msg)
    day, clock, fraction = match.groups()
    return f"{day}T{clock}.{(fraction or '').ljust(7, '0')}Z"


def parse_instant(text: str) -> datetime:
    """The instant rounded down to the microsecond, aware, in UTC.

    Raises:
        InvalidInstantError: the text is not a UTC instant.
    """
    key = sort_key(text)
    try:
        return datetime.fromisoformat(key[:26]).replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidInstantError(f"{text!r} is not a valid date or time") from error


def to_text(moment: datetime) -> str:
    """A datetime as Kusto writes it, with seven digits."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


def utc_now() -> datetime:
    """The present, in UTC. The one place that asks the clock, so that callers can be given another."""
    return datetime.now(UTC)
