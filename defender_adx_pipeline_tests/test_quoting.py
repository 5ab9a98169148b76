"""Nothing that stands in a name or a value can end its own quotes."""

import json
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.quoting import (
    InvalidNameError,
    kql_datetime,
    kql_dynamic,
    kql_joined,
    kql_name,
    kql_string,
    kql_timespan,
)

_ESCAPED = re.compile(r'\\(?:u([0-9a-f]{4})|([abfnrtv"\\]))')
_MEANING = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}


def read_back(literal: str) -> str:
    """A KQL string literal as Kusto's lexer reads it; fails where the literal would end early."""
    assert literal[0] == literal[-1] == '"'
    inner = literal[1:-1]
    without = _ESCAPED.sub("", inner)
    assert '"' not in without
    assert "\\" not in without
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else _MEANING[match[2]], inner)


@given(st.text())
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    literal = kql_string(text)
    assert read_back(literal) == text
    assert not re.search("[\x00-\x1f\x7f\x85\u2028\u2029]", literal)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_ .\-]{0,40}[A-Za-z0-9]", fullmatch=True))
def test_a_documented_name_is_bracketed(name: str) -> None:
    assert kql_name(name) == f"['{name}']"


@given(st.text().filter(lambda text: not re.fullmatch(r"[A-Za-z0-9_ .\-]+", text)))
def test_any_other_character_refuses_the_name(name: str) -> None:
    with pytest.raises(InvalidNameError):
        kql_name(name)


@pytest.mark.parametrize(
    "name", ["x'] | .drop table y", 'x"]', "", " a", "a ", "__x", "x__", "T;x", "T\n", "é", "a" * 1025]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="not a Kusto entity name"):
        kql_name(name)


def test_datetimes_go_out_in_utc_with_six_digits() -> None:
    east = timezone(timedelta(hours=2))
    assert kql_datetime(datetime(2026, 8, 1, 2, tzinfo=east)) == "datetime(2026-08-01T00:00:00.000000Z)"
    with pytest.raises(ValueError, match="naive"):
        kql_datetime(datetime(2026, 8, 1))  # noqa: DTZ001


def test_dynamic_values_are_parsed_from_json_text() -> None:
    literal = kql_dynamic({"a": ['x"y', 1]})
    assert literal.startswith("parse_json(")
    assert json.loads(read_back(literal[len("parse_json(") : -1])) == {"a": ['x"y', 1]}


@pytest.mark.parametrize(
    ("span", "literal"),
    [
        (timedelta(days=2), "2d"),
        (timedelta(hours=1), "1h"),
        (timedelta(seconds=90), "90s"),
        (timedelta(milliseconds=5), "5ms"),
        (timedelta(microseconds=1), "1microsecond"),
    ],
)
def test_a_timespan_is_exactly_that_long(span: timedelta, literal: str) -> None:
    assert kql_timespan(span) == literal


def test_no_bin_is_empty() -> None:
    with pytest.raises(ValueError, match="longer than nothing"):
        kql_timespan(timedelta(0))


@given(st.integers(min_value=1, max_value=4000))
def test_joined_texts_keep_their_order_and_no_call_has_more_arguments_than_kql_takes(count: int) -> None:
    names = [f"c{number}" for number in range(count)]
    joined = kql_joined(names)
    assert re.findall(r"c\d+", joined) == names
    depth: list[int] = []
    for token in re.findall(r"strcat_delim\(|,|\)", joined):
        if token == ",":
            depth[-1] += 1
        elif token == ")":
            assert depth.pop() < 64  # commas: the delimiter is an argument, too
        else:
            depth.append(0)
    assert not depth
