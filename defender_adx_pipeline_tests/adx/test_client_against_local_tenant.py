"""Every named fault of the engine, met by the real client: an answer is whole, or it is an error."""

import pytest

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.errors import AdxAuthenticationError, AdxError, AdxPermissionError, AdxUnreachableError
from defender_adx_pipeline.local.presets import PRESETS

FAULTS = sorted(PRESETS["engine"])
# A client without sign-in has no other token, and no repetition gives a role.
FATAL = {"expired_token": AdxAuthenticationError, "forbidden": AdxPermissionError}
IN_QUERIES_ONLY = {"partial", "partial_end"}
NOT_CARRIED_OUT = {"throttled", "slow", *IN_QUERIES_ONLY}
"""With these, or with no harm done, a command that must not be repeated succeeds."""


@pytest.fixture
def numbers(tenant, make_table, adx):
    """A table with the numbers 0 to 99, without faults before and after."""
    name = make_table("Numbers", {"x": "long"})
    adx.command(f".set-or-replace {name} <| range x from 0 to 99 step 1", idempotent=True)
    yield name
    tenant.faults.clear()


def arm(tenant, name, times):
    own = {"seconds": 0.01} if name == "slow" else {"keep": 0.5} if "part" in name or "trunc" in name else {}
    tenant.faults.add("engine", name, times=times, match="Numbers", **own)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_query_gives_all_rows_after_a_fault_or_an_error(tenant, adx, numbers, fault):
    arm(tenant, fault, 2)
    if fault in FATAL:
        with pytest.raises(FATAL[fault]):
            adx.query(numbers)
        return
    assert sorted(row["x"] for row in adx.query(numbers)) == list(range(100))
    assert tenant.faults.tally() == {"engine": {fault: 2 if fault != "slow" else 1}}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_query_under_a_fault_that_does_not_end_never_gives_a_part(tenant, adx, numbers, fault):
    arm(tenant, fault, None)
    if fault == "slow":
        assert len(adx.query(numbers)) == 100
        return
    with AdxClient(adx.cluster_uri, adx.database, attempts=3, first_wait=0.001) as client:
        with pytest.raises(AdxError):
            client.query(numbers)
        with pytest.raises(AdxError):
            list(client.stream(numbers))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_command_that_must_not_be_repeated_is_carried_out_at_most_once(tenant, adx, numbers, fault):
    arm(tenant, fault, 1)
    append = f".append {numbers} <| print x = 1000"
    if fault in NOT_CARRIED_OUT:
        adx.command(append, idempotent=False)
    else:
        with pytest.raises(FATAL.get(fault, AdxUnreachableError)):
            adx.command(append, idempotent=False)
    tenant.faults.clear()
    (row,) = adx.query(f"{numbers} | summarize Rows = count(), New = countif(x == 1000)")
    assert row["Rows"] == 100 + row["New"]
    # The answer was lost after the work was done, or the work was not done: nobody but the table can tell.
    assert row["New"] == (fault in NOT_CARRIED_OUT | {"lost_reply", "truncated_body", "truncated_json"})


@pytest.mark.parametrize("fault", FAULTS)
def test_an_idempotent_command_is_carried_out_after_all(tenant, adx, numbers, fault):
    arm(tenant, fault, 2)
    command = f".set-or-replace {numbers} <| print x = 7"
    if fault in FATAL:
        with pytest.raises(FATAL[fault]):
            adx.command(command, idempotent=True)
        return
    adx.command(command, idempotent=True)
    tenant.faults.clear()
    assert adx.query(numbers) == [{"x": 7}]
