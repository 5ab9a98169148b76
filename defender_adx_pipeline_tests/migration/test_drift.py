"""A tenant whose columns change in the middle of a month: no row is lost, drift tells, what mends it mends it.

Each test loads rows of the first part of a month, changes the source, loads rows of the second part, mends the typed
table and loads those of the third. The truth is the source, as it was when each part was loaded.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import orjson
import pytest

from defender_adx_pipeline.adx.errors import AdxPermissionError
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.adx.typed_checks import ROWS, unfit_counts
from defender_adx_pipeline.adx.typed_tables import typed_columns
from defender_adx_pipeline.catalogue import Column
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.local.source_schema import add_column, drop_column, retype_column
from defender_adx_pipeline.migration.backfill import backfill
from defender_adx_pipeline.migration.drift import (
    Drift,
    DriftNotMendedError,
    NoTypedTableError,
    apply_drift,
    drift_of,
    mending_of,
    read_drift,
    read_drifts,
)
from defender_adx_pipeline.migration.errors import NotConfirmedError
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import World, _counted, bootstrapped_world, entered

pytestmark = pytest.mark.long

ADDED, DROPPED, RETYPED, HALFWAY = "DeviceLogonEvents", "CloudAppEvents", "EntraIdSignInEvents", "EmailEvents"
UNCHANGED, ABSENT, UNTYPED = "DeviceProcessEvents", "IdentityLogonEvents", "UrlClickEvents"
TABLES = [ADDED, DROPPED, RETYPED, HALFWAY, UNCHANGED, ABSENT]
ROWS_OF_PART = 6


@pytest.fixture(scope="module")
def shared_world(open_tenant: OpenTenant) -> Iterator[World]:
    with bootstrapped_world(open_tenant, TABLES) as world:
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from entered(shared_world, monkeypatch)


class Month:
    """The parts of a month of one table, one after the other."""

    def __init__(self, world: World, table: str) -> None:
        self.world = world
        self.table = world.catalogue[table]
        self.truth: Counter[bytes] = Counter()
        self.next = world.now - timedelta(days=24)

    def part(self, **values: Any) -> Window:
        """Put rows with these values into the next days of Defender."""
        window = Window(self.next, self.next + timedelta(days=5))
        self.next = window.end
        time = self.table.time_column or ""
        key = next(column.name for column in self.table.columns if column.type == "string")
        rows = [
            {time: to_text(window.start + timedelta(hours=number)), key: f"row {number}", **values}
            for number in range(ROWS_OF_PART)
        ]
        self.world.tenant.source.insert_rows(self.table.name, rows)
        self.truth += _counted(map(orjson.loads, self.world.tenant.source.rows(self.table.name, *_bounds(window))))
        return window

    def load(self, **values: Any) -> None:
        """Put rows into the next days, and load them as a later run does, which asks for the columns anew."""
        self.world.hunting._schemas.clear()
        self.world.sync(self.table.name, self.part(**values))

    def drift(self) -> Drift:
        self.world.hunting._schemas.clear()
        return read_drift(self.world.hunting, self.world.adx, self.table)

    def column(self, name: str) -> list[Any]:
        """The values of a typed column, a list for each part of the month that was loaded: one value for all its rows,
        since they have the same one."""
        rows = self.world.adx.query(f"{self.table.name} | project {self.table.time_column}, {name}")
        values = [row[name] for row in sorted(rows, key=lambda row: row[self.table.time_column or ""])]
        parts = [values[first : first + ROWS_OF_PART] for first in range(0, len(values), ROWS_OF_PART)]
        assert all(part == [part[0]] * ROWS_OF_PART for part in parts)
        return [part[0] for part in parts]

    def assert_nothing_is_lost(self) -> None:
        assert self.world.loaded(self.table.name) == self.truth
        (typed,) = self.world.adx.query(f"{self.table.name} | count")
        assert typed["Count"] == self.truth.total()


def _bounds(window: Window) -> tuple[Any, Any]:
    return window.start, window.end


def kinds(drift: Drift) -> Mapping[str, str]:
    return {one.column: one.kind for one in drift.differences}


def test_tables_that_did_not_change_do_not_differ(world: World) -> None:
    before = world.hunting_calls(0)
    # Its page lists LogonID beside LogonId, and the local tenant has the first alone.
    drift = Month(world, UNCHANGED).drift()
    assert (drift.is_in_tenant, drift.has_typed_table, drift.differences) == (True, True, ())
    assert apply_drift(world.adx, drift) == ()
    assert world.hunting_calls(before) == 1
    again = drift_of(drift.table, drift.tenant_columns or (), world.adx)
    assert again == drift
    assert world.hunting_calls(before) == 1


def test_a_column_that_is_added_in_the_middle_of_a_month(world: World) -> None:
    month = Month(world, ADDED)
    month.load()
    add_column(world.tenant.source, ADDED, Column("RiskPoints", "long"))
    month.load(RiskPoints=2**53 + 1)
    month.assert_nothing_is_lost()
    drift = month.drift()
    (told,) = drift.differences
    assert (told.kind, told.tenant_type, told.typed_type) == ("added", "long", None)
    assert "schema apply DeviceLogonEvents" in str(told)

    assert len(apply_drift(world.adx, drift)) == 2
    assert month.drift().differences == ()
    assert apply_drift(world.adx, month.drift()) == ()
    month.load(RiskPoints=7)
    month.assert_nothing_is_lost()
    # What came between the change and its mending is in the raw records alone.
    assert month.column("RiskPoints") == [None, None, 7]
    backfill(world.adx, month.table)
    month.assert_nothing_is_lost()
    assert month.column("RiskPoints") == [None, 2**53 + 1, 7]


def test_a_column_that_is_dropped_in_the_middle_of_a_month_stays_with_its_values(world: World) -> None:
    month = Month(world, DROPPED)
    month.load(ObjectName="a file", ActionType="one")
    drop_column(world.tenant.source, DROPPED, "ObjectName")
    month.load(ActionType="two")
    month.assert_nothing_is_lost()
    (told,) = month.drift().differences
    assert (told.column, told.kind, told.new_column) == ("ObjectName", "dropped", None)
    assert "stays" in str(told)
    before = world.adx.query(f"{DROPPED} | getschema")
    assert apply_drift(world.adx, month.drift()) == ()
    assert world.adx.query(f"{DROPPED} | getschema") == before
    month.load(ActionType="three")
    month.assert_nothing_is_lost()
    backfill(world.adx, month.table)
    assert month.column("ObjectName") == ["a file", "", ""]
    assert month.column("ActionType") == ["one", "two", "three"]


def test_a_column_whose_type_changes_in_the_middle_of_a_month_gets_another_beside_it(world: World) -> None:
    month = Month(world, RETYPED)
    month.load(ErrorCode=50126)
    retype_column(world.tenant.source, RETYPED, "ErrorCode", "string")
    month.load(ErrorCode="AADSTS50126")
    month.assert_nothing_is_lost()
    # Not mended yet: null, counted, and whole in the raw table.
    assert month.column("ErrorCode") == [50126, None]
    (counts,) = world.adx.query(unfit_counts(month.table))
    assert {name for name, count in counts.items() if count and name != ROWS} == {"ErrorCode"}
    assert counts["ErrorCode"] == ROWS_OF_PART
    (told,) = month.drift().differences
    assert (told.kind, told.tenant_type, told.typed_type, told.documented_type) == ("retyped", "string", "int", "int")
    assert "ErrorCode_string" in str(told)

    apply_drift(world.adx, month.drift())
    assert month.drift().differences == ()
    month.load(ErrorCode="AADSTS65001")
    month.assert_nothing_is_lost()
    assert month.column("ErrorCode") == [50126, None, None]
    assert month.column("ErrorCode_string") == ["", "", "AADSTS65001"]
    backfill(world.adx, month.table)
    month.assert_nothing_is_lost()
    assert month.column("ErrorCode") == [50126, None, None]
    assert month.column("ErrorCode_string") == ["50126", "AADSTS50126", "AADSTS65001"]

    # Bootstrap follows what was added, and loads go on.
    bootstrap(world.adx, client_id=None, tenant_id=None, grants=False, tables=[month.table])
    assert month.drift().differences == ()
    retype_column(world.tenant.source, RETYPED, "ErrorCode", "int")
    assert month.drift().differences == ()
    month.load(ErrorCode=0)
    assert world.adx.query(f"{RETYPED} | where ErrorCode_string == '0' | count") == [{"Count": ROWS_OF_PART}]


def test_a_load_between_the_two_commands_fails_and_is_sent_again(world: World) -> None:
    month = Month(world, HALFWAY)
    month.load()
    add_column(world.tenant.source, HALFWAY, Column("Priority", "int"))
    table_only, _ = month.drift().statements
    world.adx.command(table_only, idempotent=True)
    window = month.part(Priority=3)
    with pytest.raises(NotConfirmedError, match="QuerySchemaDoesNotMatchTableSchema"):
        world.sync(HALFWAY, window, confirm_timeout=timedelta(seconds=1))
    assert {row["State"] for row in world.ledger(HALFWAY)} == {"Confirmed", "Queued"}
    assert world.loaded(HALFWAY).total() == ROWS_OF_PART
    # No column differs; the function does.
    drift = month.drift()
    assert drift.differences == ()
    (function,) = mending_of(world.adx, drift)
    assert function.startswith(".create-or-alter function")
    assert apply_drift(world.adx, drift) == (function,)
    world.sync(HALFWAY, window)
    month.assert_nothing_is_lost()
    assert month.column("Priority") == [None, 3]
    assert {row["State"] for row in world.ledger(HALFWAY)} == {"Confirmed"}


def test_a_table_that_the_tenant_or_adx_does_not_have_differs_in_nothing(world: World) -> None:
    world.tenant.faults.add("hunting", "unresolved", match=f"{ABSENT} ", times=None)
    world.hunting._schemas.clear()
    absent, untyped = read_drifts(world.hunting, world.adx, [world.catalogue[ABSENT], world.catalogue[UNTYPED]])
    assert (absent.is_in_tenant, absent.has_typed_table, absent.differences) == (False, True, ())
    assert (untyped.is_in_tenant, untyped.has_typed_table, untyped.differences) == (True, False, ())
    with pytest.raises(NoTypedTableError, match="defender-adx bootstrap"):
        apply_drift(world.adx, untyped)


def test_a_refused_script_says_what_happens_to_loads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    table = world.catalogue[UNCHANGED]
    drift = Drift(table, (*table.columns, Column("Extra", "string")), typed_columns(table))

    def refuse(text: str, *, idempotent: bool) -> Any:
        raise AdxPermissionError("Principal is not authorized.")

    monkeypatch.setattr(world.adx, "command", refuse)
    with pytest.raises(DriftNotMendedError) as caught:
        apply_drift(world.adx, drift)
    for part in ("takes Database Admin", "schema apply DeviceProcessEvents", "stay Queued", "Nothing is lost"):
        assert part in str(caught.value)
