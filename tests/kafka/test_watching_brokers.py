"""What a process knows of its broker while it runs, with the broker's answers as a test has them."""

from __future__ import annotations

import pytest
from aiokafka.errors import KafkaConnectionError

from engine.errors import BrokerReplaced
from engine.kafka import client
from engine.kafka.client import Topology
from engine.settings import Settings


async def test_a_broker_that_does_not_answer_is_told_of_in_words_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "CLUSTER_SECONDS", 0)
    topology = Topology(Settings(kafka_broker="127.0.0.1:19092"))
    topology._cluster = "ours"
    answers: list[str | Exception] = ["ours", KafkaConnectionError("refused"), TimeoutError(), "ours", "another"]
    faults: list[str] = []

    async def answer() -> str:
        faults.append(topology.fault)
        told = answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    monkeypatch.setattr(topology, "_cluster_now", answer)
    with pytest.raises(BrokerReplaced):
        await topology.watch()
    healthy, still_healthy, refused, silent, again = faults
    assert (healthy, still_healthy, again) == ("", "", "")
    assert refused.startswith("no Kafka broker answers at 127.0.0.1:19092 (")
    assert "refused" in refused
    assert "TimeoutError" in silent
