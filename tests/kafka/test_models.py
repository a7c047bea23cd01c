from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from registries import StatusTopic, loaded

from engine.errors import ModelFailed, RuntimeUnavailable, Unreachable
from engine.kafka.asking import Asking
from engine.kafka.client import Topology
from engine.kafka.models import Models
from engine.kafka.telling import Telling
from engine.kafka.upkeep import Upkeep
from engine.kafka.view import CREATING, FAILED, READY, Loaded, View
from engine.protocol.record import Topics
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 100.0


class Here:
    """Models of one process that has no broker, what is wrong with their topics, and what they tell."""

    def __init__(self) -> None:
        settings, topics = Settings(), Topics("s", "n")
        topology, self.topic = Topology(settings), StatusTopic()
        self.upkeep = Upkeep(topics, topology)
        telling = Telling("i", self.topic.write, self.topic.forget, lambda: NOW)
        asking = Asking(settings, topics, topology, "i", None, lambda _: False)
        self.models = Models(settings, View(), asking, self.upkeep, telling, trusted=(), clock=lambda: NOW)


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    made = Here()
    yield made
    await made.models.stop()


def model(called: str = "numpy.linalg:norm", version: int = 1) -> Loaded:
    return loaded("Model", "m", f"{{storageUri: 'python:{called}'}}", version=version)


BROKEN = model("numpy:no_such_name", 2)


async def test_a_model_is_loaded_and_told_to_be_ready(here: Here) -> None:
    await here.models.load(model())
    assert here.models.called("m") is here.models.runtime("m")
    assert here.models.runs(model())
    assert here.models.usable("m")
    assert await here.models.tell() == {"m": (READY, "loaded")}
    assert here.topic.told == [(1, CREATING, "loading"), (1, READY, "loaded")]


async def test_a_model_that_is_not_here_is_told_to_who_calls_it(here: Here) -> None:
    with pytest.raises(Unreachable, match='"m" is not loaded'):
        here.models.called("m")
    assert here.models.runtime("m") is None
    assert not here.models.usable("m")


async def test_why_a_model_could_not_be_loaded_is_told_to_who_calls_it(here: Here) -> None:
    await here.models.load(BROKEN)
    with pytest.raises(ModelFailed, match=r'"m" could not be loaded: .*no_such_name'):
        here.models.called("m")
    assert (await here.models.tell())["m"][0] == FAILED
    assert here.models.taken_up == {"m": BROKEN}
    here.models.retry("m")
    assert here.models.taken_up == {}


async def test_what_runs_goes_on_when_its_next_version_cannot_be_loaded(here: Here) -> None:
    await here.models.load(model())
    running = here.models.called("m")
    await here.models.load(BROKEN)
    assert here.models.called("m") is running
    assert here.models.taken_up == {"m": BROKEN}
    assert not here.models.runs(model())
    await here.models.tell()
    assert [said[:2] for said in here.topic.told] == [(1, CREATING), (2, CREATING), (2, FAILED)]
    assert not here.models.usable("m")


async def test_a_version_that_can_be_loaded_makes_up_for_one_that_could_not(here: Here) -> None:
    await here.models.load(BROKEN)
    await here.models.load(model(version=3))
    assert here.models.runs(model(version=3))
    assert await here.models.tell() == {"m": (READY, "loaded")}


async def test_who_has_a_model_loaded_anew_is_told_when_it_cannot_be(here: Here) -> None:
    await here.models.load(model())
    with pytest.raises(RuntimeUnavailable):
        await here.models.renew(BROKEN)
    assert here.models.runs(model())


async def test_a_model_that_was_loaded_anew_is_told_of_again(here: Here) -> None:
    await here.models.load(model())
    await here.models.tell()
    before = here.models.called("m")
    await here.models.renew(model())
    assert here.models.called("m") is not before
    await here.models.tell()
    assert here.topic.told[1:] == [(1, READY, "loaded")] * 2


async def test_a_model_that_leaves_answers_what_was_read_before(here: Here) -> None:
    await here.models.load(model())
    running = here.models.called("m")
    await here.models.unload("m")
    assert here.models.runtime("m") is None
    assert here.models.called("m") is running
    here.models.leaving.free()
    with pytest.raises(Unreachable, match="is not loaded"):
        here.models.called("m")
    assert await here.models.tell() == {}


async def test_a_model_whose_topics_cannot_be_had_is_not_loaded(here: Here) -> None:
    here.upkeep.unfit = {("model", "m"): "a topic has 3 partitions"}
    await here.models.load(model())
    assert here.models.runtime("m") is None
    await here.models.tell()
    assert here.topic.told == [(1, FAILED, "a topic has 3 partitions")]


async def test_a_model_whose_topics_are_gone_fails_until_they_are_back(here: Here) -> None:
    await here.models.load(model())
    here.upkeep.lost = {("model", "m"): "a topic is gone"}
    assert await here.models.tell() == {"m": (FAILED, "a topic is gone")}
    assert not here.models.usable("m")
    here.upkeep.lost = {}
    assert await here.models.tell() == {"m": (READY, "loaded")}
    assert here.models.usable("m")


async def test_an_explainer_remembers_the_version_that_it_was_loaded_for(here: Here) -> None:
    explained = model()
    await here.models.load(explained)
    explainer = loaded("Model", "e", "{explainer: {type: kernel_shap, modelRef: m}}")
    here.upkeep.unfit = {explainer.key: "a topic is gone"}
    await here.models.load(explainer)
    assert here.models.explained["e"] is explained
