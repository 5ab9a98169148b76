"""Rows of a snapshot table for the cases: an old state that is published, and a new one that no row is equal in.

Here: putting rows there and changing them, noting every state. Not here: what goes wrong (`cases_snapshots`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.case import Act

TABLE = "DeviceTvmSoftwareInventory"
RAW = f"{TABLE}Raw"
MARKER = "EndOfSupportStatus"
"""A column that tells the states of a table apart in every row, and is no part of its key."""
ROWS = 330
BUCKETS = 5
"""In which the rows are read, with as many in each as the bench allows."""

_START = datetime(2026, 1, 1, tzinfo=UTC)
"""The rows, and with them the buckets, are the same in every run."""
_NUMBER = "CAST(regexp_extract(DeviceId, '[0-9]+') AS INTEGER)"


def put(bench: Bench, numbers: Iterable[int], marker: str, table: str = TABLE) -> None:
    """Rows that appear, all at once."""
    column = {MARKER: marker} if table == TABLE else {}
    bench.tenant.source.insert_rows(table, [{**bench.world.key(table, number, _START), **column} for number in numbers])


def execute(bench: Bench, *statements: str, table: str = TABLE) -> None:
    """Change the rows of a table in one step: `{table}` is its name, `{number}` the number of a row."""
    bench.snapshots.note(table)
    with bench.tenant.source.writing() as cursor:
        for statement in statements:
            cursor.execute(statement.format(table=bench.tenant.source.stored(table), number=_NUMBER))
    bench.snapshots.note(table)


def come(bench: Bench, numbers: Iterable[int] = range(1000, 1040), marker: str = "came") -> None:
    """Further rows appear."""
    bench.snapshots.note(TABLE)
    put(bench, numbers, marker)
    bench.snapshots.note(TABLE)


def go(bench: Bench, below: int = 60) -> None:
    """The first rows vanish."""
    execute(bench, f"DELETE FROM {{table}} WHERE {{number}} < {below}")


def change(bench: Bench, marker: str = "changed") -> None:
    """All rows keep their keys and are others."""
    execute(bench, f"UPDATE {{table}} SET {MARKER} = '{marker}'")


def move(bench: Bench, marker: str, number: int) -> None:
    """The next state: rows come, go, and all the others change, and their number is unlike those before."""
    come(bench, range(2000 + 20 * number, 2000 + 20 * number + 7 + number), marker)
    execute(
        bench,
        f"DELETE FROM {{table}} WHERE {{number}} BETWEEN {4 * number} AND {4 * number + 3}",
        f"UPDATE {{table}} SET {MARKER} = '{marker}'",
    )


def first_state(bench: Bench) -> None:
    """Rows, and nothing published yet."""
    put(bench, range(ROWS), "new")


def old_and_new(bench: Bench) -> None:
    """The old state was published yesterday; Defender has a new one, and rows came and went."""
    put(bench, range(ROWS), "old")
    publish_yesterday(bench)
    execute(bench, "DELETE FROM {table} WHERE {number} < 12", f"UPDATE {{table}} SET {MARKER} = 'new'")
    put(bench, range(ROWS, ROWS + 7), "new")
    bench.snapshots.forget()


def publish_yesterday(bench: Bench, *tables: str) -> None:
    """What Defender has is what was published yesterday, and stays to be seen as that day's."""
    for table in tables or (TABLE,):
        bench.world.sync(table, clock=lambda: utc_now() - timedelta(days=1))
        yesterday = (utc_now() - timedelta(days=1)).date().isoformat()
        bench.snapshots.keep(table, f"At(datetime({yesterday}))")
    bench.arranged()


def at_call(kind: str, first: int, *acts: Act, times: int | None = 1, table: str = TABLE) -> Act:
    """Something that happens just before a hunting call of a kind is answered."""

    def arm(bench: Bench) -> None:
        def happen() -> None:
            for act in acts:
                act(bench)

        bench.calls.add(table, kind, happen, first=first, times=times)  # type: ignore[arg-type]

    return arm


def hidden(times: int) -> Act:
    """A row is away while buckets are read, so many times, and there again when they are counted."""
    return _while_read(
        times,
        ("CREATE OR REPLACE TABLE hidden AS SELECT * FROM {table} WHERE {number} = 100", _GONE),
        ("INSERT INTO {table} SELECT * FROM hidden",),
    )


def repeated(times: int) -> Act:
    """A row is there twice while buckets are read, so many times, and once when they are counted."""
    return _while_read(
        times,
        (
            "CREATE OR REPLACE TABLE hidden AS SELECT * FROM {table} WHERE {number} = 100",
            "INSERT INTO {table} SELECT * FROM hidden",
        ),
        (_GONE, "INSERT INTO {table} SELECT * FROM hidden"),
    )


_GONE = "DELETE FROM {table} WHERE {number} = 100"


def _while_read(times: int, before: tuple[str, ...], after: tuple[str, ...]) -> Act:
    """Not noted as states: what is read then is wrong."""

    def arm(bench: Bench) -> None:
        state = {"left": times, "wrong": False}

        def run(statements: tuple[str, ...]) -> None:
            with bench.tenant.source.writing() as cursor:
                for statement in statements:
                    cursor.execute(statement.format(table=bench.tenant.source.stored(TABLE), number=_NUMBER))

        def spoil() -> None:
            if state["left"] and not state["wrong"]:
                run(before)
                state["wrong"] = True

        def mend() -> None:
            if state["wrong"]:
                run(after)
                state["wrong"] = False
                state["left"] -= 1

        bench.calls.add(TABLE, "page", spoil, times=None)
        bench.calls.add(TABLE, "count", mend, times=None)

    return arm
