from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from registries import StatusTopic, loaded

from engine.errors import BrokerUnavailable
from engine.kafka.telling import Telling
from engine.kafka.view import FAILED, READY

if TYPE_CHECKING:
    from engine.kafka.view import State

MODEL, MODEL_2 = (loaded("Model", "m", "{storageUri: 'python:a:b'}", version=version) for version in (1, 2))


def telling() -> tuple[Telling, StatusTopic]:
    topic = StatusTopic()
    return Telling("i", topic.write, topic.forget, lambda: 5.0), topic


async def test_a_state_is_told_once() -> None:
    found, topic = telling()
    await found.tell(MODEL, READY, "loaded")
    await found.tell(MODEL, READY, "loaded")
    [state] = topic.states
    assert (state.key, state.instance, state.at, state.offset) == (("model", "m"), "i", 5.0, 1)
    assert topic.told == [(1, READY, "loaded")]


async def test_another_state_reason_or_version_is_told() -> None:
    found, topic = telling()
    for said in [(MODEL, READY, "loaded"), (MODEL, FAILED, "a"), (MODEL, FAILED, "b"), (MODEL_2, FAILED, "b")]:
        await found.tell(*said)
    assert topic.told == [(1, READY, "loaded"), (1, FAILED, "a"), (1, FAILED, "b"), (2, FAILED, "b")]


async def test_what_is_forgotten_is_told_anew() -> None:
    found, topic = telling()
    await found.tell(MODEL, READY, "loaded")
    await found.forget(MODEL.key)
    assert topic.forgotten == [(("model", "m"), "i")]
    assert found.said == {}
    await found.tell(MODEL, READY, "loaded")
    assert len(topic.states) == 2


async def test_a_broker_that_is_away_is_told_of() -> None:
    async def refuse(_: State) -> None:
        raise BrokerUnavailable("gone")

    with pytest.raises(BrokerUnavailable):
        await Telling("i", refuse, StatusTopic().forget, lambda: 5.0).tell(MODEL, READY, "loaded")


async def test_what_could_not_be_written_is_told_again() -> None:
    topic, away = StatusTopic(), [True]

    async def write(state: State) -> None:
        if away.pop():
            raise BrokerUnavailable("gone")
        await topic.write(state)

    found = Telling("i", write, topic.forget, lambda: 5.0)
    with pytest.raises(BrokerUnavailable):
        await found.tell(MODEL, READY, "loaded")
    assert found.said == {}
    away.append(False)
    await found.tell(MODEL, READY, "loaded")
    away.append(True)
    with pytest.raises(BrokerUnavailable):
        await found.tell(MODEL_2, READY, "loaded")
    away.append(False)
    await found.tell(MODEL_2, READY, "loaded")
    assert topic.told == [(1, READY, "loaded"), (2, READY, "loaded")]
