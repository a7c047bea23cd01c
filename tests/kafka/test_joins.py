"""What a worker makes of the records of other pipelines, with leases that are lost in between."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from engine.dataflow.external import Source, Upstream
from engine.dataflow.plan import Edge
from engine.kafka.joins import Joiner
from engine.kafka.leases import Leases, Membership, Place, TopicPartition
from engine.protocol.messages import ModelInferRequest
from engine.protocol.record import Owner, Side, Topics
from engine.resources import Join
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.dataflow.keyed import KeyedJoin

TOPICS = Topics("seldon", "d")
LEFT, RIGHT = (Source(name, Owner.PIPELINE, name, Side.INPUTS) for name in ("left", "right"))
WINDOW = 10.0


class FakeCheckpoints:
    """Marked as such: keeps what is finished."""

    def __init__(self) -> None:
        self.units: list[Any] = []

    def finished(self, units: Sequence[Any]) -> None:
        self.units += units

    async def written(self) -> None:
        """All of it is."""


class Member:
    """A worker's joiner of two topics, whichever comes within a window, with all leases of partition 0."""

    def __init__(self) -> None:
        self.now = 100.0
        edges = (Edge(0, Side.INPUTS, ("x",)), Edge(1, Side.INPUTS, ("x",)))
        upstream = Upstream((LEFT, RIGHT), edges, Join.OUTER, window=WINDOW)
        self.joiner = Joiner("joined", upstream, TOPICS, Settings(kafka_broker="none:1"), lambda: "id", self._clock)
        self.leases, self.checkpoints = Leases(), FakeCheckpoints()
        self.left, self.right = (TopicPartition(TOPICS.of(s.owner, s.name, s.side), 0) for s in (LEFT, RIGHT))
        self.leases.assign([self.left, self.right], Membership(1, "me"))
        self.leases.grant(dict.fromkeys((self.left, self.right), Place(0)))
        budget: Any = SimpleNamespace(take=lambda size: size)
        self.joiner.start(self.leases, self.checkpoints, budget)  # type: ignore[arg-type]

    def _clock(self) -> float:
        return self.now

    async def take(self, partition: TopicPartition) -> bool:
        """A record of a key of its own."""
        request = ModelInferRequest()
        request.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)
        record = SimpleNamespace(
            offset=0, timestamp=int(self.now * 1000), key=b"k", value=request.SerializeToString(), headers=()
        )
        return await self.joiner.take(self.leases.held[partition], [record])

    async def window_passes(self) -> None:
        self.now += WINDOW + 1
        await self.joiner._look_at_the_clock()

    @property
    def requests(self) -> int:
        """How many requests of the pipeline were made."""
        made = [record for unit in self.checkpoints.units for record in unit.records]
        return sum(topic == TOPICS.of(Owner.PIPELINE, "joined", Side.INPUTS) for topic, *_ in made)


@pytest.fixture
async def member(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def nothing(_self: Joiner, _partition: int, _join: KeyedJoin) -> None:
        """The changelog is empty."""

    monkeypatch.setattr(Joiner, "_read_back", nothing)
    made = Member()
    yield made
    await made.joiner.stop()


async def test_a_window_that_has_passed_makes_its_request(member: Member) -> None:
    assert await member.take(member.left)
    await member.window_passes()
    assert member.requests == 1


async def test_a_window_makes_nothing_of_what_is_read_again(member: Member) -> None:
    # A poll of the left topic went missing: what was read of it is not committed, and is read once more.
    assert await member.take(member.left)
    member.leases.lose(member.left)
    await member.window_passes()
    assert member.requests == 0
    member.leases.grant({member.left: Place(0)})
    assert not await member.take(member.left)
    member.leases.grant(dict.fromkeys(member.leases.fresh, Place(0)))
    assert await member.take(member.left)
    await member.window_passes()
    assert member.requests == 1
