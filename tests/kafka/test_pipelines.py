"""What is decided of pipelines, and of the worker of all models, before any of them joins a group."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from registries import StatusTopic, loaded

from engine.errors import ModelFailed
from engine.kafka.client import Topology
from engine.kafka.models_worker import ModelsWorker
from engine.kafka.pipelines import Pipelines
from engine.kafka.splits import Splits
from engine.kafka.standing import Standing
from engine.kafka.telling import Telling
from engine.kafka.upkeep import Upkeep
from engine.kafka.view import FAILED, View
from engine.kafka.workers import Workers
from engine.protocol.record import RequestIds, Topics
from engine.settings import Settings
from engine.telemetry.figures import Figures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.runtimes.contract import Runtime

TOPICS = Topics("s", "n")
STANDING = Standing({}, {})
MODEL = loaded("Model", "m", "{storageUri: 'python:a:b'}")
PIPELINE, PIPELINE_2 = (loaded("Pipeline", "p", "{steps: [{name: m}]}", version=version) for version in (1, 2))


def no_model(name: str) -> Runtime:
    raise ModelFailed(name)


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    """Makes workers that nobody starts: there is no broker."""
    settings = Settings()
    made = Workers(
        settings,
        TOPICS,
        Topology(settings),
        RequestIds(b"12345", 0, lambda: 0.0),
        instance="i",
        runtime_of=no_model,
        splits=Splits(View(), lambda _: False, random.random),
        figures=Figures(),
        callers=None,
    )
    yield made
    await made.stop()


@pytest.fixture
async def upkeep() -> Upkeep:
    return Upkeep(TOPICS, Topology(Settings()))


def pipelines(workers: Workers, upkeep: Upkeep) -> tuple[Pipelines, StatusTopic]:
    topic = StatusTopic()
    telling = Telling("i", topic.write, topic.forget, lambda: 0.0)
    return Pipelines(TOPICS, View(), upkeep, telling, workers), topic


async def test_a_pipeline_is_started_when_it_does_not_run(workers: Workers, upkeep: Upkeep) -> None:
    assert pipelines(workers, upkeep)[0].is_stale(PIPELINE, STANDING)


async def test_a_pipeline_whose_topics_cannot_be_had_is_left_until_it_changes(workers: Workers, upkeep: Upkeep) -> None:
    found, topic = pipelines(workers, upkeep)
    upkeep.unfit = {PIPELINE.key: "a topic has 3 partitions"}
    await found.start(PIPELINE)
    assert topic.told == [(1, FAILED, "a topic has 3 partitions")]
    assert found.running == {}
    assert not found.is_stale(PIPELINE, STANDING)
    assert found.is_stale(PIPELINE_2, STANDING)


async def test_a_pipeline_is_tried_again_when_its_topics_have_changed(workers: Workers, upkeep: Upkeep) -> None:
    found, _ = pipelines(workers, upkeep)
    upkeep.unfit = {PIPELINE.key: "a topic is gone"}
    await found.start(PIPELINE)
    found.retry("p")
    assert found.is_stale(PIPELINE, STANDING)


async def test_a_pipeline_that_cannot_be_compiled_is_told_with_the_fault(workers: Workers, upkeep: Upkeep) -> None:
    found, topic = pipelines(workers, upkeep)
    await found.start(loaded("Pipeline", "p", "{steps: [{name: m, inputs: [k.outputs]}]}"))
    [(_, state, reason)] = topic.told
    assert state == FAILED
    assert '"k.outputs"' in reason


async def test_the_worker_of_models_is_started_when_there_is_a_model_to_call(workers: Workers, upkeep: Upkeep) -> None:
    found = ModelsWorker(TOPICS, upkeep, workers)
    assert not found.is_stale({})
    assert found.is_stale({"m": MODEL})
    assert not found.is_amiss
    assert not found.reads("s.n.model.m.inputs")


async def test_models_without_their_topics_need_no_worker(workers: Workers, upkeep: Upkeep) -> None:
    found = ModelsWorker(TOPICS, upkeep, workers)
    upkeep.unfit = {MODEL.key: "a topic is gone"}
    assert not found.is_stale({"m": MODEL})
    await found.start({"m": MODEL})
    assert not found.reads("s.n.model.m.inputs")
