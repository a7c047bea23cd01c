from __future__ import annotations

import asyncio

from engine.kafka.budget import Budget


async def has_room(budget: Budget) -> bool:
    """Whether `room` returns without anything being given back."""
    waiting = asyncio.ensure_future(budget.room())
    await asyncio.sleep(0)
    found = waiting.done()
    waiting.cancel()
    return found


async def test_a_new_budget_has_room() -> None:
    assert await has_room(Budget(10))


async def test_there_is_room_below_the_size() -> None:
    budget = Budget(10)
    budget.take(9)
    assert await has_room(budget)


async def test_there_is_no_room_at_the_size() -> None:
    budget = Budget(10)
    budget.take(4)
    budget.take(6)
    assert not await has_room(budget)


async def test_one_request_is_taken_however_large() -> None:
    budget = Budget(10)
    assert await has_room(budget)
    budget.take(1000)
    assert not await has_room(budget)


async def test_there_is_room_again_once_enough_is_given_back() -> None:
    budget = Budget(10)
    budget.take(15)
    budget.give(5)
    assert not await has_room(budget)
    budget.give(1)
    assert await has_room(budget)


async def test_whoever_waits_goes_on_when_there_is_room() -> None:
    budget = Budget(10)
    budget.take(10)
    waiting = [asyncio.ensure_future(budget.room()) for _ in range(2)]
    await asyncio.sleep(0)
    budget.give(10)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_what_a_worker_never_finished_is_given_back_when_it_ends() -> None:
    budget = Budget(10)
    share, other = budget.share(), budget.share()
    share.take(8)
    other.take(4)
    share.close()
    await asyncio.wait_for(other.room(), 1)


async def test_whoever_could_give_something_back_is_told_once_that_there_is_no_room() -> None:
    budget, told = Budget(10), list[str]()
    first, second = budget.share(lambda: told.append("first")), budget.share(lambda: told.append("second"))
    first.take(9)
    assert told == []
    second.take(1)
    first.take(5)
    assert sorted(told) == ["first", "second"]
    second.close()
    first.give(9)
    first.take(9)
    assert sorted(told) == ["first", "first", "second"]


async def test_a_worker_below_its_portion_goes_on_though_another_holds_more_than_all() -> None:
    budget = Budget(10)
    flooded, other = budget.share(), budget.share()
    flooded.take(1000)
    other.take(4)
    await asyncio.wait_for(other.room(), 1)
    other.take(1)
    waiting = [asyncio.ensure_future(share.room()) for share in (flooded, other)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    flooded.give(1000)
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
