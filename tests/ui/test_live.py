from __future__ import annotations

import itertools
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import ModelFailed
from engine.protocol.record import Owner, Topics
from engine.telemetry.figures import Distribution, Figures, Group
from engine.ui import live
from engine.ui.live import Live, shares

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPICS = Topics("seldon", "ns")


class Member:
    """A member of a consumer group that is as far behind as the test says."""

    def __init__(self, behind: dict[tuple[Owner, str], int], waiting: int | None) -> None:
        self._behind, self._waiting = behind, waiting

    async def measure(self) -> Group:
        return Group(Distribution(()), Distribution(()), 0, 0, self._behind, self._waiting)


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def told(figures: Figures) -> Iterator[Live]:
    """It counts each time a second later."""
    clock = itertools.count(100.0)
    return Live(figures, TOPICS, lambda: next(clock))


def test_the_first_count_tells_of_the_broker_alone(told: Live, figures: Figures) -> None:
    figures.flow(Owner.PIPELINE, "p").taken = 5
    found = told.count()
    assert (found["broker"], found["since"], found["pipelines"]) == ({"ok": True, "fault": ""}, None, {})


def test_rates_are_of_what_happened_since_an_earlier_count(told: Live, figures: Figures) -> None:
    flow = figures.flow(Owner.PIPELINE, "p")
    flow.taken = 5
    told.count()
    flow.taken += 3
    flow.in_flight = 2
    flow.ended_unanswered(ModelFailed("no"))
    flow.step("s").seconds.observe(0.002, 3)
    flow.failed("s", ModelFailed("no"))
    found = told.count()["pipelines"]["p"]
    assert (found["rate"], found["errors"], found["in_flight"]) == (3.0, 1.0, 2)
    assert (found["p50"], found["p99"]) == (None, None)  # nobody called it by the gateway
    assert (found["steps"]["s"]["rate"], found["steps"]["s"]["errors"]) == (3.0, 1.0)
    assert 0.001 < found["steps"]["s"]["p50"] <= found["steps"]["s"]["p99"] <= 0.0025


def test_what_lies_behind_the_last_seconds_counts_no_more(told: Live, figures: Figures) -> None:
    flow = figures.flow(Owner.PIPELINE, "p")
    told.count()
    flow.taken = 10
    rates = [told.count()["pipelines"]["p"]["rate"] for _ in range(8)]
    assert rates == [10.0, 5.0, pytest.approx(10 / 3), 2.5, 2.0, 0.0, 0.0, 0.0]


def test_calls_are_told_of_pipelines_and_models_by_name_with_their_failures(told: Live, figures: Figures) -> None:
    told.count()
    figures.answered(Owner.PIPELINE, "p", "rest", "200", 0.02)
    figures.answered(Owner.PIPELINE, "p", "grpc", "INTERNAL", 0.02)
    figures.answered(Owner.MODEL, "m", "kafka", "OK", 0.2)
    found = told.count()
    assert (found["pipelines"]["p"]["rate"], found["pipelines"]["p"]["errors"]) == (2.0, 1.0)
    assert 0.01 < found["pipelines"]["p"]["p50"] <= 0.025
    assert (found["models"]["m"]["rate"], found["models"]["m"]["errors"]) == (1.0, 0.0)
    assert 0.1 < found["models"]["m"]["p99"] <= 0.25


def test_a_resource_that_was_loaded_anew_begins_at_nothing(told: Live, figures: Figures) -> None:
    figures.flow(Owner.PIPELINE, "p").taken = 9
    told.count()
    del figures.flows[Owner.PIPELINE, "p"]
    figures.flow(Owner.PIPELINE, "p").taken = 2
    assert told.count()["pipelines"]["p"]["rate"] == 2.0


def test_a_broker_that_is_away_is_told_in_words_and_so_is_its_return(told: Live, figures: Figures) -> None:
    figures.kafka = lambda: "connection refused"
    assert told.count()["broker"] == {"ok": False, "fault": "connection refused"}
    figures.kafka = str
    assert told.count()["broker"] == {"ok": True, "fault": ""}


def test_shares_are_of_the_calls_between_two_counts() -> None:
    before = {("e", "a"): 10, ("idle", "x"): 4}
    now = {("e", "a"): 13, ("e", "b"): 1, ("idle", "x"): 4}
    assert shares(before, now) == {"e": {"a": 0.75, "b": 0.25}}


async def test_who_watches_hears_of_each_count_and_of_lags(
    figures: Figures, told: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "COUNT_SECONDS", 0.01)
    figures.flow(Owner.PIPELINE, "p")
    group = TOPICS.group(Owner.PIPELINE, "p")
    figures.groups[group] = Member({(Owner.PIPELINE, "p"): 7}, 3)
    async with aclosing(told.watch()) as seen:
        found: Any = {}
        async for each in seen:
            found = each["pipelines"].get("p", {})
            if found.get("lag") is not None:
                break
    assert (found["lag"], found["waiting"]) == (7, 3)


async def test_nobody_is_told_any_more_when_it_ends(told: Live) -> None:
    async with aclosing(told.watch()) as seen:
        await anext(seen)
        await told.end()
        with pytest.raises(StopAsyncIteration):
            await anext(seen)
