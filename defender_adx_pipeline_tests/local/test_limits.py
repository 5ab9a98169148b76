"""Quota windows: how many calls, and when the next one is let through."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from defender_adx_pipeline.local.limits import CallQuota, HuntingLimits, QuotaExceeded


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_46th_call_of_a_minute_is_refused_and_the_next_minute_is_free():
    clock = Clock()
    quota = CallQuota(HuntingLimits(), monotonic=clock)
    assert [quota.take() for _ in range(45)] == [None] * 45
    clock.now += 59.9
    assert quota.take() == QuotaExceeded(45, "00:01:00")
    clock.now += 0.2
    assert quota.take() is None


def test_the_hour_has_a_limit_of_its_own():
    clock = Clock()
    quota = CallQuota(HuntingLimits(calls_per_minute=10, calls_per_hour=25), monotonic=clock)
    for _ in range(25):
        assert quota.take() is None
        clock.now += 6.1
    assert quota.take() == QuotaExceeded(25, "01:00:00")
    clock.now += 3600
    assert quota.take() is None


def test_a_scaled_clock_shortens_the_windows():
    clock = Clock()
    quota = CallQuota(HuntingLimits(calls_per_minute=1), scale=60.0, monotonic=clock)
    assert quota.take() is None
    clock.now += 0.9
    assert quota.take() is not None
    clock.now += 0.2
    assert quota.take() is None


@given(st.lists(st.floats(0, 40), max_size=60))
def test_no_window_ever_holds_more_calls_than_allowed(pauses):
    clock = Clock()
    quota = CallQuota(HuntingLimits(calls_per_minute=3, calls_per_hour=8), monotonic=clock)
    taken = []
    for pause in pauses:
        clock.now += pause
        if quota.take() is None:
            taken.append(clock.now)
    for moment in taken:
        assert sum(moment - 60 < other <= moment for other in taken) <= 3
        assert sum(moment - 3600 < other <= moment for other in taken) <= 8


def test_threads_share_one_count():
    quota = CallQuota(HuntingLimits(calls_per_minute=45))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: quota.take(), range(100)))
    assert answers.count(None) == 45
