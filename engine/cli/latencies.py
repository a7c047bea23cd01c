"""How long calls took: counted in buckets of which each is a little wider than the one below. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A quantile is at most so much above the true one; an hour and a microsecond are some 2,200 buckets apart.
PRECISION = 0.01
_LOG = math.log1p(PRECISION)

# What takes no longer is in the lowest bucket.
SHORTEST = 1e-6


@dataclass(slots=True)
class Latencies:
    """Seconds that calls took; takes the same room however many there are."""

    counts: Counter[int] = field(default_factory=Counter)
    count: int = 0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """One more call."""
        self.counts[_bucket(seconds)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float:
        """The time within which this share of the calls was done, at most PRECISION above it; 0 without calls."""
        if not self.count:
            return 0.0
        rank, seen = max(math.ceil(share * self.count), 1), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(_upper(bucket), self.longest)
        return self.longest

    def bars(self, most: int) -> list[tuple[float, int]]:
        """Upper bounds as people write them, with the calls up to each; without empty ends.

        There are at most `most`, as long as that is enough for one in each power of ten.
        """
        if not self.count:
            return []
        high = self.longest
        low = min(_upper(min(self.counts)), high)
        for per_decade in _STEPS:
            bounds = list(_bounds(low, high, per_decade))
            if len(bounds) <= most:
                break
        found = dict.fromkeys(bounds, 0)
        for bucket, count in self.counts.items():
            upper = min(_upper(bucket), high)
            found[next(bound for bound in bounds if upper <= bound)] += count
        return list(found.items())


# Bounds within each power of ten, the finest first.
_STEPS: tuple[tuple[float, ...], ...] = (
    (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1,),
)


def _bounds(low: float, high: float, per_decade: tuple[float, ...]) -> Iterator[float]:
    """From the last bound that is not below `low` to the first that is not below `high`."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    every = [float(f"{mark}e{power}") for power in range(first, last + 1) for mark in per_decade]
    return (bound for below, bound in pairwise(every) if bound >= low and below < high)


def _bucket(seconds: float) -> int:
    """Its upper bound is the first that is not below `seconds`."""
    if seconds <= SHORTEST:
        return 0
    return math.ceil(math.log(seconds / SHORTEST) / _LOG)


def _upper(bucket: int) -> float:
    return SHORTEST * math.exp(bucket * _LOG)
