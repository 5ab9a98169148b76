"""Rows that come late, change, repeat, share an instant, or lie at the edges of what Defender keeps."""

from collections.abc import Iterator
from datetime import timedelta

from defender_adx_pipeline.defs.assets import SWEEP, TICK
from defender_adx_pipeline.instants import to_text
from defender_adx_pipeline.local.source import quoted
from defender_adx_pipeline_tests.faults.bench import Bench
from defender_adx_pipeline_tests.faults.case import AGO, ROWS, TABLE, Act, Case, nothing, some_rows

GROUP = "late and odd rows"
HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
EMAILS, WITHOUT_KEY = "EmailEvents", "AlertEvidence"


def add(count: int, *, ago: timedelta, step: timedelta = MINUTE, number: int = 10_000, table: str = TABLE) -> Act:
    """Rows that arrive."""

    def act(bench: Bench) -> None:
        bench.rows(table, count, ago=ago, step=step, number=number)

    return act


def arriving(kind: str, first: int, *acts: Act, times: int = 1) -> Act:
    """Rows that arrive just before a call of a kind is answered."""

    def arm(bench: Bench) -> None:
        def arrive() -> None:
            for act in acts:
                act(bench)

        bench.calls.add(bench.tables[0], kind, arrive, first=first, times=times)  # type: ignore[arg-type]

    return arm


def then(*acts: Act, scope: str | None = None) -> Act:
    """A run, something that happens, and another run."""

    def script(bench: Bench) -> None:
        bench.run()
        for act in acts:
            act(bench)
        bench.run(scope=scope)

    return script


def sql(statement: str) -> Act:
    """Something that Defender does to its rows by itself."""

    def act(bench: Bench) -> None:
        with bench.tenant.source._connection.cursor() as cursor:
            cursor.execute(statement)

    return act


def _late() -> Iterator[Case]:
    inside, beyond = add(30, ago=2 * HOUR), add(30, ago=AGO - 2 * MINUTE, step=7 * MINUTE)
    yield _case("late rows inside the overlap, then a tick", then(inside, scope=TICK))
    yield _case("late rows beyond the overlap, then a sweep", then(beyond, scope=SWEEP))
    yield _case("late rows beyond the overlap, then the whole range", then(beyond))

    def tick_then_sweep(bench: Bench) -> None:
        bench.run()
        beyond(bench)
        bench.run(scope=TICK)
        bench.run(scope=SWEEP)

    yield _case("late rows beyond the overlap, a tick that passes them, then a sweep", tick_then_sweep)
    for number in (1, 2, 4):
        yield Case(
            name=f"rows arrive between the count and page {number}",
            group=GROUP,
            arm=arriving("page", number, beyond),
            script=then(),
            failures=0,
        )
    yield Case(
        name="rows arrive before every page, in slices that were read and in others",
        group=GROUP,
        arm=_before_every_page,
        script=then(),
        failures=0,
    )


def _before_every_page(bench: Bench) -> None:
    for page in range(1, 9):
        act = add(10, ago=AGO - page * 17 * MINUTE, step=3 * HOUR, number=20_000 + 100 * page)
        arriving("page", page, act)(bench)


def _case(name: str, script: Act, **rest: object) -> Case:
    return Case(name=name, group=GROUP, script=script, failures=0, **rest)  # type: ignore[arg-type]


def _same_instant(count: int) -> Act:
    return add(count, ago=AGO, step=timedelta(0), number=0)


def _small_answers(bench: Bench) -> None:
    bench.limit(rows=100)
    bench.pace.row_cap = 100


def _ties() -> Iterator[Case]:
    one_more = add(1, ago=AGO, step=timedelta(0), number=5_000)
    yield _case("a row arrives at a microsecond that is full already", then(one_more), rows=_same_instant(90))
    for count in (100, 101, 1_000):
        yield Case(
            name=f"{count} rows at one time, with answers of at most 100 rows",
            group=GROUP,
            rows=_with(_same_instant(count), _small_answers),
        )
    yield Case(
        name="1,000 rows at one time, between others, with answers of at most 100 rows",
        group=GROUP,
        rows=_with(some_rows, add(1_000, ago=AGO - HOUR, step=timedelta(0)), _small_answers),
    )
    yield Case(
        name="300 rows at one time in a table without key, with answers of at most 100 rows",
        group=GROUP,
        tables=(WITHOUT_KEY,),
        rows=_with(add(300, ago=AGO, step=timedelta(0), table=WITHOUT_KEY), _small_answers),
    )
    yield Case(
        name="300,000 rows at one time",
        group=GROUP,
        rows=_with(_same_instant(300_000), _large_slices),
        seconds=900.0,
        whole=True,
    )
    yield Case(
        name="an answer with as many rows as the cap, one of two slices",
        group=GROUP,
        rows=_with(add(200, ago=AGO, step=MINUTE, number=0), _small_answers),
    )


def _large_slices(bench: Bench) -> None:
    bench.pace.slice_rows = 50_000


def _with(*acts: Act) -> Act:
    def act(bench: Bench) -> None:
        for one in acts:
            one(bench)

    return act


def _changes() -> Iterator[Case]:
    moved = sql(f"UPDATE stored.{quoted(EMAILS)} SET LatestDeliveryLocation = 'Quarantine'")
    late = add(30, ago=AGO - 2 * MINUTE, step=5 * MINUTE, table=EMAILS)
    yield _case("a column that Defender changes later has changed", then(moved), tables=(EMAILS,))
    yield _case("it has changed, and late rows came beside", then(moved, late), tables=(EMAILS,))
    yield Case(
        name="it changes between the count and page 2",
        group=GROUP,
        tables=(EMAILS,),
        arm=arriving("page", 2, moved),
    )
    twice = add(ROWS, ago=AGO, step=5 * MINUTE, number=0, table=WITHOUT_KEY)
    yield Case(
        name="a table without key, every row of it twice",
        group=GROUP,
        tables=(WITHOUT_KEY,),
        rows=_with(twice, twice),
    )
    yield _case(
        "a table without key: a third copy of rows comes late, and new ones",
        then(
            add(50, ago=AGO, step=5 * MINUTE, number=0, table=WITHOUT_KEY),
            add(20, ago=AGO, step=5 * MINUTE, table=WITHOUT_KEY),
        ),
        tables=(WITHOUT_KEY,),
        rows=_with(twice, twice),
    )


def _edges() -> Iterator[Case]:
    month = timedelta(days=30)
    yield Case(
        name="rows at the edge of 30 days: those that vanish within minutes are left, and noted",
        group=GROUP,
        rows=_with(add(10, ago=month - 8 * MINUTE, step=timedelta(seconds=1)), add(50, ago=month - 20 * MINUTE)),
        lost=10,
    )
    yield Case(
        name="rows that have not settled are left to the next run",
        group=GROUP,
        rows=_with(some_rows, add(5, ago=5 * MINUTE, step=timedelta(seconds=1))),
        lost=5,
    )
    yield Case(name="no rows at all", group=GROUP, rows=nothing)
    yield Case(name="rows 100 ns to both sides of bounds", group=GROUP, rows=_around_bounds)

    def too_old(bench: Bench) -> None:
        day = (bench.world.now - 40 * DAY).date().isoformat()
        bench.run(first=day, last=day)
        bench.run()

    yield Case(
        name="a partition older than 30 days",
        group=GROUP,
        script=too_old,
        failures=1,
        says="Defender keeps 30 days",
    )
    yield Case(
        name="a table that was not run for 35 days",
        group=GROUP,
        rows=_with(some_rows, _fallen_behind),
        expect="loud_then_exact",
        says="cannot be had any more",
    )


def _fallen_behind(bench: Bench) -> None:
    moment = bench.world.now - 35 * DAY
    bench.world.configure(TABLE, LastRefreshedTime=to_text(moment), LastRefreshedTimeInString=to_text(moment))


def _around_bounds(bench: Bench) -> None:
    start = (bench.world.now - AGO).replace(minute=0, second=0, microsecond=0)
    texts = []
    for hour in range(30):
        bound = start + hour * HOUR
        before = to_text(bound - timedelta(microseconds=1))[:-2]
        texts += [f"{before}{digit}Z" for digit in (0, 8, 9)]
        texts += [f"{to_text(bound)[:-2]}{digit}Z" for digit in (0, 1, 9)]
    rows = [{"Timestamp": text, **bench.world.key(TABLE, number, start)} for number, text in enumerate(texts)]
    bench.tenant.source.insert_rows(TABLE, rows)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _late()
    yield from _ties()
    yield from _changes()
    yield from _edges()
