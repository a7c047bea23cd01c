"""Who takes a call of an experiment, for any weights, draws and routes."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import assume, given
from hypothesis import strategies as st

from engine.resources import Candidate, Experiment, Mirror, splitting
from engine.resources.source import Document

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCUMENT = Document("e.yaml", None, {}, "")

DRAWS = st.floats(0, 1, exclude_max=True)
WEIGHTS = st.lists(st.integers(0, (1 << 32) - 1) | st.integers(0, 3), min_size=1, max_size=6)


def experiment(weights: Sequence[int], mirror: Mirror | None = None) -> Experiment:
    """With candidates that are called by their places."""
    candidates = tuple(Candidate(str(place), weight) for place, weight in enumerate(weights))
    return Experiment(name="ab", candidates=candidates, mirror=mirror, document=DOCUMENT)


def choose(weights: Sequence[int], draw: float, *, wanted: Sequence[str] = (), down: Sequence[str] = ()) -> int | None:
    name = splitting.choose(experiment(weights), wanted, lambda name: name not in down, draw)
    return None if name is None else int(name)


@given(WEIGHTS, DRAWS, st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)))
def test_a_candidate_of_weight_0_is_never_chosen(
    weights: list[int], draw: float, wanted: set[int], down: set[int]
) -> None:
    chosen = choose(weights, draw, wanted=[str(place) for place in wanted], down=[str(place) for place in down])
    assert (chosen is None) == (not any(weights))
    assert chosen is None or weights[chosen] > 0


@given(WEIGHTS, DRAWS, st.data())
def test_a_route_is_taken_again_whatever_is_drawn(weights: list[int], draw: float, data: st.DataObject) -> None:
    assume(any(weights))
    before = data.draw(st.sampled_from([place for place, weight in enumerate(weights) if weight]))
    assert choose(weights, draw, wanted=[str(before), "elsewhere"]) == before


@given(WEIGHTS, DRAWS, st.sets(st.integers(0, 6)))
def test_who_is_down_gets_nothing_while_another_is_there(weights: list[int], draw: float, down: set[int]) -> None:
    up = [place for place, weight in enumerate(weights) if weight and place not in down]
    assume(up)
    assert choose(weights, draw, wanted=[str(place) for place in down], down=[str(place) for place in down]) in up


@given(WEIGHTS, DRAWS)
def test_where_all_are_down_one_is_chosen_all_the_same(weights: list[int], draw: float) -> None:
    everybody = [str(place) for place in range(len(weights))]
    assert choose(weights, draw, down=everybody) == choose(weights, draw)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=5))
def test_evenly_spaced_draws_are_shared_out_exactly_by_weight(weights: list[int]) -> None:
    total = sum(weights)
    chosen = Counter(choose(weights, (number + 0.5) / total) for number in range(total))
    assert chosen == dict(enumerate(weights))


@given(st.lists(st.integers(0, 20), min_size=2, max_size=4).filter(any), st.integers(0, 2**32))
def test_weights_are_held(weights: list[int], seed: int) -> None:
    draws = random.Random(seed)
    chosen = Counter(choose(weights, draws.random()) for _ in range(2000))
    for place, weight in enumerate(weights):
        share = weight / sum(weights)
        # Hypothesis tries hundreds of seeds: 3 deviations are left once in 370, 5.5 never.
        assert abs(chosen[place] - 2000 * share) <= 5.5 * math.sqrt(2000 * share * (1 - share))


@given(DRAWS, st.integers(0, 100))
def test_a_mirror_gets_its_percentage_of_the_calls(draw: float, percent: int) -> None:
    found = splitting.mirror(experiment([1], Mirror("m", percent)), draw)
    assert found == ("m" if draw * 100 < percent else None)


@given(DRAWS)
def test_percentages_of_0_and_100_leave_nothing_to_chance(draw: float) -> None:
    assert splitting.mirror(experiment([1], Mirror("m", 0)), draw) is None
    assert splitting.mirror(experiment([1], Mirror("m", 100)), draw) == "m"
    assert splitting.mirror(experiment([1]), draw) is None
