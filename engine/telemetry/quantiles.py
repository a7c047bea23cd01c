"""Times that most calls stayed below, as far as a histogram's bounds tell. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Quantile:
    """A time below which a share of the calls stayed: between two bounds, and at `seconds` if they spread evenly there.

    above is 0 where no lower bound is known, and below is infinite where no upper one is.
    """

    seconds: float
    above: float
    below: float


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> Quantile | None:
    """Below which bound a share of the values lie; None without values.

    buckets   upper bounds, the last one infinite, each with how much lies below it
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, above, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count > below and count >= rank:
            inside = (rank - below) / (count - below)
            seconds = above if bound == float("inf") else above + (bound - above) * max(inside, 0.0)
            return Quantile(seconds, above, bound)
        above, below = bound, count
    return None
