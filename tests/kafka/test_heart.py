"""Who lives and who is dead: by a watch of one's own, and on both brokers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from registries import folders, model, registry

from engine.kafka import heart
from engine.kafka.heart import BURY_SECONDS, Heart, Vigil
from engine.kafka.view import GATEWAY, HEARTBEAT_SECONDS, READY, WORKER, Instance, State

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from engine.kafka.registry import Registry

NOW = 1000.0
KEY = ("model", "iris")
DEADLINE = 30.0


def after(vigil: Vigil, seconds: float, beats: Callable[[float], dict[str, float | None]]) -> list[str]:
    """Who is dead after so long, watched as often as a heart beats."""
    now = NOW
    while now < NOW + seconds:
        vigil.dead(beats(now), now)
        now += HEARTBEAT_SECONDS
    return vigil.dead(beats(now), now)


def test_who_stirs_lives_and_who_does_not_is_dead_in_the_end() -> None:
    assert after(Vigil(), BURY_SECONDS, lambda now: {"a": 1.0, "b": now}) == []
    assert after(Vigil(), BURY_SECONDS + 5, lambda now: {"a": 1.0, "b": now}) == ["a"]


def test_an_instance_that_never_said_that_it_lives_is_dead_in_the_end() -> None:
    assert after(Vigil(), BURY_SECONDS + 5, lambda _: {"a": None}) == ["a"]


def test_who_was_asleep_takes_nobody_for_dead() -> None:
    vigil = Vigil()
    after(vigil, BURY_SECONDS / 2, lambda _: {"a": 1.0})
    assert vigil.dead({"a": 1.0}, NOW + 10 * BURY_SECONDS) == []


def test_clocks_that_are_wrong_make_nobody_dead() -> None:
    assert after(Vigil(), 2 * BURY_SECONDS, lambda now: {"behind": now - 1e6, "ahead": now + 1e6}) == []


async def until(registry: Registry, true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():
            await registry.wait(0.1)


async def test_an_instance_tells_what_it_is_and_how_far_it_has_read(broker: str, namespace: str) -> None:
    async with registry(broker, namespace) as mine, registry(broker, namespace) as others:
        beating = Heart(mine, "me", lambda: NOW, lambda: None)
        mine._changed = beating.changed
        await beating.takes_part(WORKER)
        await beating.takes_part(GATEWAY)
        found = model("iris")
        await others.load([found], folders(found))
        offset = others.view.resources[KEY].offset
        await until(others, lambda: others.view.instances["me"].seen == offset)
        assert others.view.instances["me"] == Instance("me", NOW, (WORKER, GATEWAY), offset)
        await beating.stop(tell=True)
        await until(others, lambda: "me" not in others.view.instances)


async def test_an_instance_that_says_good_bye_takes_its_states_along(broker: str, namespace: str) -> None:
    async with registry(broker, namespace) as mine:
        retold: list[None] = []
        beating = Heart(mine, "me", lambda: NOW, lambda: retold.append(None))
        await beating.takes_part(WORKER)
        await mine.tell(State(KEY, "me", 1, READY, "", NOW))
        await until(mine, lambda: KEY in mine.view.states and "me" in mine.view.instances)
        beating.changed()
        await beating.stop(tell=True)
        async with registry(broker, namespace) as later:
            assert (later.view.instances, later.view.states) == ({}, {})
        await until(mine, lambda: "me" not in mine.view.instances)
        beating.changed()
        assert not retold, "nobody has taken it for dead"


async def test_the_dead_are_taken_from_the_topic_by_one_who_lives(
    broker: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heart, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(heart, "BURY_SECONDS", 0.4)
    async with registry(broker, namespace) as mine:
        await mine.heartbeat(Instance("killed", NOW, (WORKER,), 0))
        await mine.tell(State(KEY, "killed", 1, READY, "", NOW))
        await mine.tell(State(KEY, "older", 1, READY, "", NOW))
        await until(mine, lambda: "killed" in mine.view.instances and len(mine.view.states.get(KEY, {})) == 2)
        times = iter(range(10**6))
        beating = Heart(mine, "me", lambda: NOW + next(times), lambda: None)
        mine._changed = beating.changed
        await beating.takes_part(WORKER)
        await until(mine, lambda: list(mine.view.instances) == ["me"] and mine.view.states == {})
        await beating.stop(tell=True)


async def test_one_that_was_taken_for_dead_tells_all_anew(broker: str, namespace: str) -> None:
    async with registry(broker, namespace) as mine, registry(broker, namespace) as others:
        told: list[str] = []
        beating = Heart(mine, "me", lambda: NOW, lambda: told.append("anew"))
        mine._changed = beating.changed
        await beating.takes_part(WORKER)
        await until(mine, lambda: beating._is_known)
        await others.bury("me")
        await until(mine, lambda: told == ["anew"] and "me" in mine.view.instances)
        await beating.stop(tell=True)
