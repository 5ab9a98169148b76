from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.local.chaos import CHOICES, Chaos
from defender_adx_pipeline.local.fault_rules import BadFaultError
from defender_adx_pipeline.local.faults import FaultScript
from defender_adx_pipeline.local.presets import PRESETS

QUERY = "/v2/rest/query"


def fates(chaos: Chaos, table: str, count: int = 100) -> list[str | None]:
    drawn = [chaos.draw("engine", (f"{table} | count", table, QUERY), "POST") for _ in range(count)]
    return [fault.label if fault else None for fault in drawn]


@given(st.permutations(["A", "A", "A", "B", "B", "C"]))
def test_the_fate_of_a_tables_calls_does_not_depend_on_the_calls_of_others(order: list[str]) -> None:
    chaos, seen = Chaos(5, 0.5), Counter[str]()
    expected = {table: fates(Chaos(5, 0.5), table, 3) for table in "ABC"}
    for table in order:
        assert fates(chaos, table, 1) == [expected[table][seen[table]]]
        seen[table] += 1


def test_the_share_of_faulty_calls_is_the_one_asked_for() -> None:
    assert fates(Chaos(1, 0.0), "T") == [None] * 100
    assert None not in fates(Chaos(1, 1.0), "T")
    share = sum(fate is not None for fate in fates(Chaos(1, 0.1), "T", 5000)) / 5000
    assert 0.08 < share < 0.12
    assert fates(Chaos(1), "T") != fates(Chaos(2), "T")


def test_only_a_query_for_rows_is_too_large_and_only_a_query_comes_in_part() -> None:
    weights = {"hunting": {"too_large": 1, "reset": 1}, "engine": {"partial": 1, "reset": 1}}
    chaos = Chaos(1, 1.0, weights)
    path = "/v1.0/security/runHuntingQuery"
    counts = {chaos.draw("hunting", ("T | summarize Rows = count()", "T", path), "POST").label for _ in range(50)}
    rows = {chaos.draw("hunting", ("T | where A > 1", "T", path), "POST").label for _ in range(50)}
    commands = {chaos.draw("engine", (".show tables", None, "/v1/rest/mgmt"), "POST").label for _ in range(50)}
    assert (counts, rows, commands) == ({"reset"}, {"too_large", "reset"}, {"reset"})


def test_a_blob_is_known_by_its_table_and_not_by_its_id() -> None:
    def path(name: str) -> tuple[None, None, str]:
        return None, None, f"/devstoreaccount1/tempstorage0/db__DeviceInfoRaw__{name}__records.json.gz"

    one, two = Chaos(3, 0.5), Chaos(3, 0.5)
    for number in range(40):
        fate, other = one.draw("storage", path(f"a{number}"), "PUT"), two.draw("storage", path(f"b{number}"), "PUT")
        assert fate == other


def test_what_may_happen_is_a_preset_of_its_service_and_a_broken_promise_is_not_among_it() -> None:
    for service, choices in CHOICES.items():
        assert {choice.name for choice in choices} <= set(PRESETS[service])
    assert "dropped" not in {choice.name for choice in CHOICES["worker"]}


@pytest.mark.parametrize(
    "wrong", [{"share": 1.5}, {"weights": {"nobody": {}}}, {"weights": {"worker": {"naps": 1}}}], ids=str
)
def test_chaos_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(BadFaultError):
        Chaos(1, **wrong)


def test_a_rule_goes_before_chaos_and_the_tally_knows_both() -> None:
    script = FaultScript()
    script.chaos(1, 1.0, {"engine": {"unavailable": 1}})
    script.add("engine", "throttled", retry_after=2, times=2)
    labels = [script.take("engine", "x", None, QUERY).label for _ in range(3)]
    assert labels == ["throttled", "throttled", "unavailable"]
    assert script.tally() == {"engine": {"throttled": 2, "unavailable": 1}}
    script.calm()
    assert script.take("engine", "x", None, QUERY) is None
    assert script.tally() == {"engine": {"throttled": 2, "unavailable": 1}}
    script.clear()
    assert script.tally() == {}
