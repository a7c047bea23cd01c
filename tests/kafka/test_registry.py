"""Loading and unloading, on both brokers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError
from registries import folders, model, names, registry

from engine.errors import BrokerUnavailable, UnknownResource
from engine.kafka.loading import Fence
from engine.kafka.view import View
from engine.protocol.record import Topics
from engine.settings import AT_LEAST_ONCE, Settings

if TYPE_CHECKING:
    from engine.kafka.registry import Registry

DEADLINE = 30.0


async def load(into: Registry, name: str, memory: str = "1Mi") -> None:
    found = model(name, memory)
    await into.load([found], folders(found))


async def test_what_is_loaded_is_seen_by_all_and_what_is_unloaded_is_gone(broker: str, namespace: str) -> None:
    async with registry(broker, namespace) as one, registry(broker, namespace) as other:
        found = [model("a"), model("b")]
        await one.load(found, folders(*found))
        assert names(one.view) == {"a": 1, "b": 1}
        await other.caught_up()
        assert names(other.view) == {"a": 1, "b": 1}
        await other.unload(("model", "a"))
        await one.caught_up()
        assert names(one.view) == names(other.view) == {"b": 1}


async def test_a_new_reader_sees_the_same(broker: str, namespace: str) -> None:
    async with registry(broker, namespace) as one:
        await load(one, "a")
        await load(one, "a", "2Mi")
        async with registry(broker, namespace) as other:
            assert other.view.resources == one.view.resources
            assert (names(other.view), other.view.seen) == ({"a": 2}, one.view.seen)


async def test_what_stands_as_it_is_is_left_alone(broker: str, namespace: str) -> None:
    async with registry(broker, namespace) as one:
        await load(one, "a")
        before = one.view.resources["model", "a"]
        await load(one, "a")
        assert one.view.resources["model", "a"] is before
        await load(one, "a", "2Mi")
        after = one.view.resources["model", "a"]
        assert (after.version, after.offset > before.offset) == (2, True)


def refuse(view: View) -> None:
    raise UnknownResource(f"{len(view.resources)} are loaded")


async def test_a_check_that_refuses_keeps_everything_as_it_is(broker: str, namespace: str) -> None:
    async with registry(broker, namespace) as one:
        await load(one, "a")
        other = model("b")
        with pytest.raises(UnknownResource, match="1 are loaded"):
            await one.load([other], folders(other), refuse)
        with pytest.raises(UnknownResource, match="1 are loaded"):
            await one.unload(("model", "a"), check=refuse)
        assert names(one.view) == {"a": 1}


async def test_loads_at_one_time_are_done_one_after_the_other(kafka_broker: str, namespace: str) -> None:
    async def load_often(number: int) -> None:
        async with registry(kafka_broker, namespace) as one:
            for turn in range(3):
                await load(one, "a", f"{number * 10 + turn + 1}Mi")

    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*map(load_often, range(3)))
    async with registry(kafka_broker, namespace) as one:
        assert names(one.view) == {"a": 9}, "two loads at one time would both have made the same version"


async def test_of_two_loads_that_exclude_each_other_one_is_refused(kafka_broker: str, namespace: str) -> None:
    def alone(view: View) -> None:
        if view.resources:
            raise UnknownResource("somebody was faster")

    async def try_to_load(name: str) -> bool:
        async with registry(kafka_broker, namespace) as one:
            found = model(name)
            try:
                await one.load([found], folders(found), alone)
            except UnknownResource:
                return False
            return True

    async with asyncio.timeout(DEADLINE):
        done = await asyncio.gather(*map(try_to_load, "abc"))
    assert sum(done) == 1
    async with registry(kafka_broker, namespace) as one:
        assert names(one.view) == {"abc"[done.index(True)]: 1}


def fence_without_coordinator(**settings: str) -> Fence:
    """Marked as such: its producer is told that the broker has nobody who coordinates transactions."""

    async def nobody(_: int = 0) -> Any:
        raise GroupCoordinatorNotAvailableError

    wanted = Settings(kafka_broker="none:1", **settings)  # type: ignore[arg-type]
    made = Fence(wanted, Topics("seldon", "default"), View(), nobody)
    made._producer.recover = nobody  # type: ignore[method-assign]
    return made


async def test_a_broker_that_runs_no_transactions_is_told_with_what_to_do() -> None:
    with pytest.raises(BrokerUnavailable, match=r"set transaction\.state\.log\.replication\.factor=1 there"):
        await fence_without_coordinator().write(lambda _: [("model.a", None)])


async def test_who_asked_for_no_transactions_loads_without_one_there() -> None:
    fence = fence_without_coordinator(processing_guarantee=AT_LEAST_ONCE)
    assert not await fence.write(lambda _: [("model.a", None)])
