"""What is said of many times together holds for the times themselves."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from engine.cli.latencies import PRECISION, SHORTEST, Latencies
from engine.telemetry.quantiles import quantile

SECONDS = st.lists(st.floats(SHORTEST, 3600), min_size=1, max_size=200)
BOUNDS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20, unique=True).map(sorted)


def counted(times: list[float]) -> Latencies:
    latencies = Latencies()
    for seconds in times:
        latencies.add(seconds)
    return latencies


def at_rank(times: list[float], share: float) -> float:
    return sorted(times)[max(math.ceil(share * len(times)), 1) - 1]


@given(SECONDS, st.floats(0, 1))
@example([0.1], 0.5)
def test_a_quantile_is_the_true_one_or_a_little_more(times: list[float], share: float) -> None:
    true = at_rank(times, share)
    assert true * (1 - 1e-9) <= counted(times).quantile(share) <= true * (1 + PRECISION) * (1 + 1e-9)


@given(SECONDS)
def test_the_longest_is_exact(times: list[float]) -> None:
    assert counted(times).longest == max(times) == counted(times).quantile(1.0)


@given(SECONDS, st.integers(12, 30))
@example([0.999], 12)
def test_every_call_is_in_one_bar_and_none_is_empty_at_the_ends(times: list[float], most: int) -> None:
    bars = counted(times).bars(most)
    assert len(bars) <= most
    assert sum(count for _, count in bars) == len(times)
    assert bars[0][1]
    assert bars[-1][1]
    assert [bound for bound, _ in bars] == sorted({bound for bound, _ in bars})


@given(SECONDS, st.integers(12, 30))
def test_no_call_took_longer_than_its_bar_says(times: list[float], most: int) -> None:
    below = 0
    for bound, count in counted(times).bars(most):
        below += count
        # Nor is one in a bar above its own, but for the precision of what is counted.
        assert sum(seconds <= bound / (1 + PRECISION) for seconds in times) <= below
        assert below <= sum(seconds <= bound * (1 + 1e-9) for seconds in times)


@given(st.lists(st.floats(0, 2e3), min_size=1, max_size=200), BOUNDS, st.floats(0.01, 1))
def test_a_quantile_of_a_histogram_lies_between_the_bounds_of_the_true_one(
    times: list[float], bounds: list[float], share: float
) -> None:
    buckets = [(bound, float(sum(seconds <= bound for seconds in times))) for bound in (*bounds, math.inf)]
    found = quantile(share, buckets)
    true = sorted(times)[max(math.ceil(share * len(times) - 1e-9), 1) - 1]
    assert found is not None
    assert found.above <= found.seconds <= found.below
    assert found.above < true <= found.below or true == found.above == 0


def test_nothing_has_no_quantile() -> None:
    assert quantile(0.5, [(0.1, 0.0), (math.inf, 0.0)]) is None
    assert Latencies().quantile(0.5) == 0
    assert Latencies().bars(12) == []
