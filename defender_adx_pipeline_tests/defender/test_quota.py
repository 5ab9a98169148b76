import json
import logging
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from defender_adx_pipeline.defender.errors import QuotaExhaustedError, QuotaStoreError
from defender_adx_pipeline.defender.quota import FileQuota, Limit, default_store, quota_from_settings
from defender_adx_pipeline.settings import Settings
from defender_adx_pipeline_tests.defender.loopback import Asked, Reply, serving


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


def take(quota: FileQuota, calls: int, table: str | None = None) -> None:
    for _ in range(calls):
        with quota.call(table=table):
            pass


def waiters(store: Path) -> list[str]:
    """The tables that somebody waits for, as the file has them."""
    with closing(sqlite3.connect(store)) as connection:
        return [row[0] for row in connection.execute("SELECT asked_for FROM waiters ORDER BY id")]


CALLER = """
import random, sys, time, requests
from pathlib import Path
from defender_adx_pipeline.defender.quota import FileQuota, Limit
url, store, calls, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)
quota = FileQuota(store, (Limit(9, 0.3), Limit(30, 1.5)))
with requests.Session() as session:
    for _ in range(calls):
        with quota.call(table=dice.choice(["Often", "Often", f"Own{seed}"])):
            time.sleep(dice.uniform(0, 0.03))  # the way to the service
            answer = session.post(url, data=b"x", timeout=10)
        print(answer.status_code)
"""


class StrictService:
    """Counts in sliding and in fixed windows at once, and refuses what either would refuse."""

    def __init__(self) -> None:
        self.refused = 0
        self.seen: deque[float] = deque()
        self.most = 0

    def __call__(self, asked: Asked) -> Reply:
        now = time.monotonic()
        self.seen.append(now)
        for calls, window in ((9, 0.3), (30, 1.5)):
            sliding = sum(moment > now - window for moment in self.seen)
            fixed = sum(moment // window == now // window for moment in self.seen)
            self.most = max(self.most, sliding) if window == 0.3 else self.most
            if max(sliding, fixed) > calls:
                self.refused += 1
                return Reply(429)
        return Reply(200)


def test_four_processes_that_share_a_store_are_never_refused(tmp_path: Path) -> None:
    service = StrictService()
    with serving(answering=service) as server:
        callers = [
            subprocess.Popen(
                [sys.executable, "-c", CALLER, server.url, str(tmp_path / "q.sqlite"), "25", str(seed)],
                stdout=subprocess.PIPE,
            )
            for seed in range(4)
        ]
        statuses = b"".join(caller.communicate(timeout=60)[0] for caller in callers).split()
    assert statuses == [b"200"] * 100
    assert service.refused == 0
    # The quota is used, not only kept. Nine at once are usual; fewer on a machine that is busy.
    assert service.most >= 5


def test_calls_are_admitted_at_once_until_the_limit_and_then_after_the_window(tmp_path: Path) -> None:
    clock = Clock()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(3, 60),), max_wait=0.1, now=clock)
    take(quota, 3)
    with pytest.raises(QuotaExhaustedError, match="no call was free"), quota.call():
        pytest.fail("a fourth call was admitted")
    clock.now += 59.9
    with pytest.raises(QuotaExhaustedError), quota.call():
        pytest.fail("a call was admitted within the window")
    clock.now += 0.2
    take(quota, 3)
    quota.close()


def test_a_slow_call_keeps_its_place_until_a_window_after_its_answer(tmp_path: Path) -> None:
    clock = Clock()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(1, 60),), max_wait=0.1, now=clock)
    with quota.call():
        clock.now += 100
        with pytest.raises(QuotaExhaustedError), quota.call():
            pytest.fail("a call was admitted beside one under way")
    clock.now += 59
    with pytest.raises(QuotaExhaustedError), quota.call():
        pytest.fail("a call was admitted too early after a slow one")
    clock.now += 2
    take(quota, 1)
    quota.close()


def test_all_limits_are_kept(tmp_path: Path) -> None:
    clock = Clock()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(2, 60), Limit(3, 3600)), max_wait=0.1, now=clock)
    take(quota, 2)
    clock.now += 61
    take(quota, 1)
    clock.now += 61
    with pytest.raises(QuotaExhaustedError), quota.call():
        pytest.fail("the hour's limit was broken")
    clock.now += 3600
    take(quota, 2)
    quota.close()


def test_a_pause_holds_back_another_process_view_of_the_store(tmp_path: Path) -> None:
    first = FileQuota(tmp_path / "q.sqlite", (Limit(100, 60),))
    second = FileQuota(tmp_path / "q.sqlite", (Limit(100, 60),))
    first.pause(0.4)
    first.pause(0.1)  # a shorter one does not end it
    with second.call() as permit:
        assert 0.3 <= permit.waited < 5
    first.close()
    second.close()


def test_a_clock_that_is_set_back_does_not_stop_the_pipeline(tmp_path: Path) -> None:
    clock = Clock()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(1, 60),), max_wait=0.1, now=clock)
    take(quota, 1)
    clock.now -= 100_000
    with pytest.raises(QuotaExhaustedError), quota.call():
        pytest.fail("the call before the clock was set is forgotten")
    clock.now += 61
    take(quota, 1)
    quota.close()


def test_a_killed_process_frees_its_place_in_the_end(tmp_path: Path) -> None:
    store = tmp_path / "q.sqlite"
    script = (
        "import sys, time; from pathlib import Path\n"
        "from defender_adx_pipeline.defender.quota import FileQuota, Limit\n"
        "with FileQuota(Path(sys.argv[1]), (Limit(1, 60),)).call(): print('in', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    clock = Clock()
    clock.now = time.time()
    quota = FileQuota(store, (Limit(1, 60),), max_wait=0.1, now=clock)
    with pytest.raises(QuotaExhaustedError), quota.call():
        pytest.fail("the call of the killed process may still be counted by the service")
    clock.now += 361
    take(quota, 1)
    quota.close()


@contextmanager
def waiting(quota: FileQuota, clock: Clock, order: list[str], *names: str) -> Iterator[None]:
    """A thread per name that waits for one call; the table is the name without its number. All are in line in order."""
    threads = []
    for count, name in enumerate(names, len(waiters(quota.file)) + 1):
        clock.now += 0.001
        table = name.rstrip("0123456789")

        def ask(name: str = name, table: str = table) -> None:
            with quota.call(table=table):
                order.append(name)

        threads.append(threading.Thread(target=ask))
        threads[-1].start()
        until(lambda count=count: len(waiters(quota.file)) == count)
    yield
    for thread in threads:
        thread.join(30)


def test_a_free_place_goes_to_the_table_with_the_fewest_calls_and_then_to_whoever_waits_longest(tmp_path: Path) -> None:
    clock, order = Clock(), list[str]()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(2, 0.2), Limit(100, 20)), now=clock)
    take(quota, 2, "Flood")
    with waiting(quota, clock, order, "Flood1", "Flood2", "Flood3", "Rare1", "Other1", "Rare2"):
        for served in (2, 4, 6):
            clock.now += 0.21
            until(lambda served=served: len(order) == served)
    # Two at once may note themselves in any order.
    served_together = [set(order[:2]), set(order[2:4]), set(order[4:])]
    assert served_together == [{"Flood1", "Rare1"}, {"Flood2", "Other1"}, {"Flood3", "Rare2"}]
    assert waiters(quota.file) == []
    quota.close()


def test_a_waiter_that_was_killed_is_passed_over(tmp_path: Path) -> None:
    store, clock = tmp_path / "q.sqlite", Clock()
    quota = FileQuota(store, (Limit(1, 60),), max_wait=0.1, now=clock)
    take(quota, 1, "Flood")
    script = (
        "import sys; from pathlib import Path\n"
        "from defender_adx_pipeline.defender.quota import FileQuota, Limit\n"
        "quota = FileQuota(Path(sys.argv[1]), (Limit(1, 60),), now=lambda: float(sys.argv[2]))\n"
        "with quota.call(table='Rare'): print('in', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store), str(clock.now + 59.9)])
    until(lambda: waiters(store) == ["Rare"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    clock.now += 60.5
    with pytest.raises(QuotaExhaustedError), quota.call(table="Flood"):
        pytest.fail("the waiter may be alive, and it is its turn")
    clock.now += 3
    take(quota, 1, "Flood")
    assert waiters(store) == []
    quota.close()


def test_a_waiter_that_gives_up_stands_in_nobodys_way(tmp_path: Path) -> None:
    clock = Clock()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(1, 60),), max_wait=0.1, now=clock)
    take(quota, 1, "Flood")
    with pytest.raises(QuotaExhaustedError), quota.call(table="Rare"):
        pytest.fail("admitted")
    clock.now += 61
    take(quota, 1, "Flood")
    quota.close()


def test_a_waiter_that_was_taken_for_dead_gets_its_turn_back(tmp_path: Path) -> None:
    clock, order = Clock(), list[str]()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(1, 0.2),), now=clock)
    take(quota, 1, "T")
    with waiting(quota, clock, order, "T1", "T2"):
        with closing(sqlite3.connect(quota.file)) as connection, connection:
            connection.execute("DELETE FROM waiters WHERE id = (SELECT min(id) FROM waiters)")
        until(lambda: len(waiters(quota.file)) == 2)
        for served in (1, 2):
            clock.now += 0.21
            until(lambda served=served: len(order) == served)
    assert order == ["T1", "T2"]
    quota.close()


def test_calls_about_history_come_after_all_others_however_long_they_wait(tmp_path: Path) -> None:
    clock, order = Clock(), list[str]()
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(1, 0.2),), now=clock)
    history = FileQuota(tmp_path / "q.sqlite", (Limit(1, 0.2),), now=clock, is_history=True)
    take(quota, 1, "Today")
    with waiting(history, clock, order, "Past1"), waiting(quota, clock, order, "Today1", "Today2"):
        for served in (1, 2, 3):
            clock.now += 0.21
            until(lambda served=served: len(order) == served)
    assert order == ["Today1", "Today2", "Past1"]
    quota.close()
    history.close()


def test_calls_about_history_leave_a_part_of_the_quota_and_stand_in_nobodys_way(tmp_path: Path) -> None:
    store, order = tmp_path / "q.sqlite", list[str]()
    settings = Settings(defender_calls_per_minute=10, defender_quota_reserve=0, defender_quota_store=store)
    history, quota = (quota_from_settings(settings, is_history=past, max_wait=5) for past in (True, False))
    take(history, 8, "Past")
    with waiting(history, Clock(), order, "Past1"):
        take(quota, 2, "Today")
        assert order == []
        quota.close()
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute("DELETE FROM calls")
    assert order == ["Past1"]
    history.close()


def test_a_file_of_an_earlier_version_keeps_its_count(tmp_path: Path) -> None:
    store, clock = tmp_path / "q.sqlite", Clock()
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(
            "CREATE TABLE calls (id INTEGER PRIMARY KEY, weight INTEGER NOT NULL, admitted REAL NOT NULL, settled REAL)"
        )
        connection.execute("INSERT INTO calls VALUES (1, 1, ?, ?)", (clock.now, clock.now))
        connection.execute(
            "CREATE TABLE waiters (id INTEGER PRIMARY KEY AUTOINCREMENT, weight INTEGER NOT NULL,"
            " asked_for TEXT NOT NULL, since REAL NOT NULL, seen REAL NOT NULL)"
        )
    quota = FileQuota(store, (Limit(2, 60),), max_wait=0.1, now=clock)
    take(quota, 1)
    with pytest.raises(QuotaExhaustedError), quota.call():
        pytest.fail("the call of the earlier version is forgotten")
    quota.close()


def test_a_pause_is_told_with_its_reason_and_a_wait_for_its_end_too(tmp_path: Path) -> None:
    told: list[str] = []
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(9, 60),), tell=told.append)
    quota.pause(1.2, "Advanced Hunting said 429")
    take(quota, 1)
    assert told[0] == "all processes that share the quota hold back for 1.2 s: Advanced Hunting said 429"
    assert told[1].startswith("waiting about 1 s for the tenant's quota of hunting calls: Defender refused a call")
    assert len(told) == 2
    quota.close()


def test_waiting_longer_than_a_second_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(1, 1.3),), tell=told.append, named="1 per blink")
    take(quota, 2)
    assert told == [
        (
            "waiting about 1 s for the tenant's quota of hunting calls (1 per blink; shared by all processes that use"
            f" {tmp_path / 'q.sqlite'})"
        )
    ]
    quota.close()
    loud = FileQuota(tmp_path / "loud.sqlite", (Limit(1, 1.2),))
    with caplog.at_level(logging.INFO):
        take(loud, 2)
    assert "quota of hunting calls (1 in 1.2 s; shared by" in caplog.text
    loud.close()


def test_many_threads_share_one_quota(tmp_path: Path) -> None:
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(5, 0.2),))
    moments: list[float] = []

    def work() -> None:
        for _ in range(4):
            with quota.call():
                moments.append(time.monotonic())
                time.sleep(random.uniform(0, 0.01))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    moments.sort()
    assert len(moments) == 24
    # 1 ms for the time between being admitted and being noted.
    assert all(later - earlier > 0.199 for earlier, later in zip(moments, moments[5:], strict=False))
    quota.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_quota_can_be_used_after_a_fork(tmp_path: Path) -> None:
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(4, 60),))
    take(quota, 2)
    child = multiprocessing.get_context("fork").Process(target=take, args=(quota, 1))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    take(quota, 1)
    spent = FileQuota(tmp_path / "q.sqlite", (Limit(4, 60),), max_wait=0.1)
    with pytest.raises(QuotaExhaustedError), spent.call():
        pytest.fail("the child's call was not counted")
    quota.close()
    spent.close()


def test_a_damaged_store_is_told_with_what_to_do(tmp_path: Path) -> None:
    store = tmp_path / "q.sqlite"
    store.write_bytes(b"this is not a database, " * 100)
    quota = FileQuota(store, (Limit(1, 60),))
    with pytest.raises(QuotaStoreError, match="DEFENDER_QUOTA_STORE"), quota.call():
        pytest.fail("a call was admitted without a count")


def test_a_call_that_never_fits_is_refused_at_once(tmp_path: Path) -> None:
    quota = FileQuota(tmp_path / "q.sqlite", (Limit(5, 60),))
    with pytest.raises(ValueError, match="weight 6"), quota.call(6):
        pytest.fail("admitted")


def test_the_reserve_and_the_scaled_clock_come_from_the_settings(tmp_path: Path) -> None:
    settings = Settings(
        defender_calls_per_minute=45,
        defender_calls_per_hour=1500,
        defender_quota_reserve=0.1,
        defender_quota_store=tmp_path / "q.sqlite",
        defender_quota_clock_scale=60,
        defender_api_url="http://127.0.0.1:1",
        adx_cluster_uri="http://127.0.0.1:2",
    )
    quota = quota_from_settings(settings)
    assert quota.limits == (Limit(40, 1.0), Limit(1350, 60.0))
    assert quota.file == tmp_path / "q.sqlite"


def test_the_default_store_is_per_tenant_and_names_none(tmp_path: Path) -> None:
    one, other = (default_store(Settings(azure_tenant_id=tenant)) for tenant in ("contoso.example", "fabrikam.example"))
    assert one != other
    assert "contoso" not in json.dumps(str(one))
