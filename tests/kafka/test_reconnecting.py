"""A broker that is away is tried by all clients of a process together, ever less often."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.kafka.client
from engine.kafka import reconnecting
from engine.kafka.reconnecting import FIRST_PAUSE, LONGEST_PAUSE, Address, Patience

HERE, THERE = Address("one", 9092), Address("two", 9092)


def test_an_address_that_nobody_tried_is_tried_at_once() -> None:
    assert Patience().pause(HERE, 1.0) == 0


def test_an_address_that_failed_waits_and_others_do_not() -> None:
    patience = Patience()
    patience.failed(HERE, 1.0)
    assert patience.pause(HERE, 1.0) == pytest.approx(FIRST_PAUSE)
    assert patience.pause(HERE, 1.0 + FIRST_PAUSE) == 0
    assert patience.pause(THERE, 1.0) == 0


def test_an_address_that_is_there_again_is_tried_at_once() -> None:
    patience = Patience()
    patience.failed(HERE, 1.0)
    patience.connected(HERE)
    assert patience.pause(HERE, 1.0) == 0


@given(clients=st.integers(1, 20), rounds=st.integers(1, 20))
def test_pauses_grow_by_rounds_and_not_by_clients(clients: int, rounds: int) -> None:
    patience, now = Patience(), 1.0
    for number in range(rounds):
        for _ in range(clients):
            patience.failed(HERE, now)
        pause = patience.pause(HERE, now)
        assert abs(pause - min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)) < 1e-9
        now += pause


async def test_a_client_waits_for_its_turn_and_finds_a_broker_that_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    connections: list[Any] = [OSError("refused"), OSError("refused"), "a connection", "another"]

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 2))

    async def connect(*_: object, **__: object) -> Any:
        found = connections.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(reconnecting, "_patience", Patience())
    monkeypatch.setattr(reconnecting, "create_conn", connect)
    monkeypatch.setattr(reconnecting, "time", SimpleNamespace(monotonic=lambda: 1.0 + sum(slept)))
    monkeypatch.setattr(reconnecting, "asyncio", SimpleNamespace(sleep=sleep))
    for _ in range(2):
        with pytest.raises(OSError, match="refused"):
            await reconnecting.connect("one", 9092)
    assert await reconnecting.connect("one", 9092) == "a connection"
    assert await reconnecting.connect("one", 9092) == "another"
    assert slept == [FIRST_PAUSE, 2 * FIRST_PAUSE]


async def test_nobody_connects_to_what_comes_in_the_place_of_a_broker_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def taken(*_: object, **__: object) -> Any:
        return "a connection"

    monkeypatch.setattr(reconnecting, "create_conn", taken)
    reconnecting.bar("it has ended")
    try:
        with pytest.raises(ConnectionRefusedError, match="it has ended"):
            await reconnecting.connect("one", 9092)
    finally:
        reconnecting.admit()
    assert await reconnecting.connect("one", 9092) == "a connection"


async def test_who_waits_for_a_turn_meanwhile_does_not_connect_either(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience()
    patience.failed(Address("one", 9092), time.monotonic() + 1000)

    async def barred_meanwhile(_: float) -> None:
        reconnecting.bar("it has ended")

    monkeypatch.setattr(reconnecting, "_patience", patience)
    monkeypatch.setattr(reconnecting, "asyncio", SimpleNamespace(sleep=barred_meanwhile))
    with pytest.raises(ConnectionRefusedError, match="it has ended"):
        await reconnecting.connect("one", 9092)


def test_all_clients_of_a_process_take_turns() -> None:
    assert engine.kafka.client.aiokafka.client.create_conn is reconnecting.connect
