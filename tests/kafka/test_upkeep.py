from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine.kafka.client import Topology
from engine.kafka.upkeep import Upkeep, first_faults
from engine.protocol.record import Topics
from engine.settings import Settings

if TYPE_CHECKING:
    import pytest

M, P = ("model", "m"), ("pipeline", "p")


def test_each_resource_is_told_the_first_of_its_topics_that_is_amiss() -> None:
    wanted = {M: ["a", "b"], P: ["c", "b", "a"], ("pipeline", "q"): ["c"]}
    assert first_faults(wanted, {"a": "a is gone", "b": "b has grown"}) == {M: "a is gone", P: "b has grown"}


async def test_what_is_lost_or_back_is_named_once_and_what_is_lost_logged(caplog: pytest.LogCaptureFixture) -> None:
    upkeep = Upkeep(Topics("s", "n"), Topology(Settings()))
    with caplog.at_level(logging.ERROR):
        assert upkeep.lose({M: "gone", P: "gone too"}) == {M, P}
        assert upkeep.lose({P: "grown", M: "gone"}) == set()
        assert upkeep.lost == {M: "gone", P: "grown"}
        assert upkeep.lose({M: "gone"}) == {P}
    assert upkeep.lost == {M: "gone"}
    assert sorted(caplog.messages) == ["model m: gone", "pipeline p: gone too"]
