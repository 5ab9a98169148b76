"""What ADX lacks of a window is told by identity, as multisets."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.migration.identity import RecordKeys, missing_records

CATALOGUE = load_catalogue()
EMAILS = RecordKeys(CATALOGUE["EmailEvents"])
EVIDENCE = RecordKeys(CATALOGUE["AlertEvidence"])


def email(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "Timestamp": "2026-11-20T10:00:00.1Z",
        "NetworkMessageId": f"m{number}",
        "RecipientEmailAddress": "a@contoso.com",
        "ReportId": f"m{number}-1-1",
        "LatestDeliveryLocation": "Inbox",
        **changes,
    }


def test_a_row_that_defender_changed_after_it_was_loaded_is_not_new() -> None:
    assert missing_records([email(1)], [email(1, LatestDeliveryLocation="Quarantine")], EMAILS) == []


def test_one_instant_in_two_spellings_is_one_row() -> None:
    assert missing_records([email(1)], [email(1, Timestamp="2026-11-20T10:00:00.1000000Z")], EMAILS) == []


def test_the_seventh_digit_tells_rows_apart() -> None:
    late = email(1, Timestamp="2026-11-20T10:00:00.1000001Z")
    assert missing_records([email(1), late], [email(1)], EMAILS) == [late]


def test_without_a_documented_key_the_whole_row_is_the_identity() -> None:
    one = {"Timestamp": "2026-11-20T10:00:00Z", "AlertId": "a", "EntityType": "Ip"}
    two = {**one, "EntityType": "File"}
    assert missing_records([one, two], [one], EVIDENCE) == [two]


def test_where_both_sides_share_an_identity_the_unknown_content_is_taken() -> None:
    known, unknown = email(1, Subject="a"), email(1, Subject="b")
    assert missing_records([known, unknown], [known], EMAILS) == [unknown]


rows = st.builds(lambda number, subject: email(number, Subject=subject), st.integers(0, 3), st.sampled_from(["a", "b"]))


@given(st.lists(rows, max_size=12), st.data())
def test_what_is_loaded_on_top_makes_both_sides_equal(source: list[dict[str, Any]], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(source), max_size=len(source)))
    present = [row for row, keep in zip(source, kept, strict=True) if keep]
    missing = missing_records([dict(row) for row in source], present, EMAILS)
    assert Counter(map(EMAILS.identity, source)) == Counter(map(EMAILS.identity, [*present, *missing]))
    assert Counter(map(EMAILS.content, source)) == Counter(map(EMAILS.content, [*present, *missing]))


def test_the_readable_identity_is_short_although_a_value_of_it_is_what_makes_the_record_too_large() -> None:
    table = load_catalogue()["AgentsInfo"]
    record = dict.fromkeys(table.identity, "x" * 1_100_000)
    shown = RecordKeys(table).readable(record)
    assert set(shown) == set(table.identity)
    assert all(len(value) <= 201 and value.endswith("…") for value in shown.values())
