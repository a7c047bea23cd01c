"""The data plane in front of a real in-process model; what is loaded elsewhere, and Kafka, are stand-ins."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.errors import InvalidInput, Overloaded, TooLarge, UnknownResource
from engine.gateway.inference import DataPlane, Target, Way
from engine.protocol.messages import ModelInferRequest, ModelMetadataResponse
from engine.protocol.record import Owner, RequestIds, Topics
from engine.runtimes.function import Function
from engine.runtimes.inprocess import InProcessRuntime
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.gateway.inference import Answer
    from engine.protocol.record import Headers

LIMIT, PLACES = 1000, 2
GROW, AWAY = Target(Owner.MODEL, "grow"), Target(Owner.MODEL, "away")


class Catalogue:
    """NOT the registry: two models are loaded, `away` in another process."""

    def __init__(self) -> None:
        self.told: Any = None

    def version(self, target: Target) -> int | None:
        return 3 if target in (GROW, AWAY) else None

    def answers(self, _: Target) -> bool:
        return True

    def ready(self, _: Target) -> bool:
        return True

    def unready(self, target: Target) -> str:
        return f"no {target.name}"

    def metadata(self, _: Target) -> Any:
        return self.told


class Desk:
    """NOT Kafka: nothing that these tests send may come so far."""

    waiting = 0

    async def call(self, topic: str, key: bytes, value: bytes, headers: Headers, timeout: float) -> Any:
        raise AssertionError((topic, key, value, headers, timeout))


@asynccontextmanager
async def serving(**more: Any) -> AsyncIterator[tuple[DataPlane, Catalogue, Desk]]:
    function = Function(lambda arrays: [("y", np.zeros(int(arrays["x"][0]), np.uint8))], ("x",), "test")
    runtime, catalogue = InProcessRuntime("grow", lambda: function, max_rows=None, threads=1), Catalogue()
    desk = Desk()
    await runtime.load()
    yield (
        DataPlane(
            Settings(max_message_bytes=LIMIT, max_in_flight=PLACES),
            Topics("seldon", "ns"),
            catalogue,
            desk,
            RequestIds(bytes(5), 0, lambda: 0.0),
            runtime={"grow": runtime}.get,
            **more,
        ),
        catalogue,
        desk,
    )
    await runtime.unload()


def request(number: int, size: int = 1) -> Any:
    """Asks for an answer of so many bytes by a tensor of so many INT64."""
    message = ModelInferRequest(model_name="grow")
    message.inputs.add(name="x", datatype="INT64", shape=[size])
    message.raw_input_contents.append(np.full(size, number, "<i8").tobytes())
    return message


async def ask(plane: DataPlane, target: Target, message: Any) -> Answer:
    return await plane.infer(target, message, (), request_id="r", timeout=30.0)


async def test_what_fits_is_answered() -> None:
    async with serving() as (plane, _, _):
        answer = await ask(plane, GROW, request(900, size=100))
    assert answer.message.raw_output_contents[0] == bytes(900)


async def test_a_request_with_raw_and_typed_contents_is_refused() -> None:
    message = request(1)
    message.inputs[0].contents.int64_contents.append(2)
    async with serving() as (plane, _, _):
        with pytest.raises(InvalidInput, match='tensor "x" has contents, and the message has raw_input_contents too'):
            await ask(plane, GROW, message)


@pytest.mark.parametrize("target", [GROW, AWAY])
async def test_a_request_over_the_limit_is_refused_wherever_the_model_is(target: Target) -> None:
    message = request(1, size=125)
    async with serving() as (plane, _, _):
        with pytest.raises(TooLarge, match=f"the request takes {message.ByteSize()} bytes; the limit is {LIMIT}"):
            await ask(plane, target, message)


async def test_an_answer_over_the_limit_is_the_models_error() -> None:
    async with serving() as (plane, _, _):
        with pytest.raises(TooLarge, match=f"the answer takes 10[0-9][0-9] bytes; the limit is {LIMIT}") as caught:
            await ask(plane, GROW, request(1000))
    assert caught.value.step == "grow"


async def test_there_is_room_until_so_many_calls_wait_where_this_one_would() -> None:
    async with serving() as (plane, _, desk):
        desk.waiting = PLACES - 1
        plane.check_room(AWAY)
        desk.waiting = PLACES
        # A model of this process is called without Kafka, and who answers an experiment is not drawn yet.
        for target in (GROW, Target(Owner.EXPERIMENT, "split")):
            plane.check_room(target)
        for target in (AWAY, Target(Owner.PIPELINE, "grow")):
            with pytest.raises(Overloaded, match=f"{PLACES} requests are in flight"):
                plane.check_room(target)


async def test_direct_calls_have_places_of_their_own() -> None:
    async with serving() as (plane, _, _):
        calls = [asyncio.ensure_future(ask(plane, GROW, request(-1))) for _ in range(PLACES)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            plane.check_room(GROW)
        plane.check_room(AWAY)
        await asyncio.gather(*calls, return_exceptions=True)
        plane.check_room(GROW)


async def test_metadata_of_a_model_of_this_process_is_its_own() -> None:
    async with serving() as (plane, _, _):
        found = await plane.metadata(GROW)
    assert (found.name, found.platform, [tensor.name for tensor in found.inputs]) == ("grow", "test", ["x"])


async def test_metadata_of_a_model_elsewhere_is_what_is_told_of_it_at_least_its_name() -> None:
    async with serving() as (plane, catalogue, _):
        bare = await plane.metadata(AWAY)
        catalogue.told = ModelMetadataResponse(name="away", platform="theirs")
        catalogue.told.inputs.add(name="x")
        told = await plane.metadata(AWAY)
        with pytest.raises(UnknownResource):
            await plane.metadata(Target(Owner.MODEL, "nobody"))
    assert (bare.name, bare.platform, bare.versions[:]) == ("away", "model", ["3"])
    assert (told.platform, told.versions[:], told.inputs[0].name) == ("theirs", ["3"], "x")
    assert not catalogue.told.versions, "what is told is left as it was"


async def test_the_version_that_metadata_tells_is_the_one_that_may_be_called_whatever_a_model_says() -> None:
    message = request(900, size=100)
    async with serving() as (plane, catalogue, _):
        catalogue.told = ModelMetadataResponse(name="away", versions=["8"])
        [version] = (await plane.metadata(GROW, "")).versions
        assert (await plane.metadata(AWAY)).versions == [version] == ["3"]
        message.model_version = version
        assert (await ask(plane, GROW, message)).message.raw_output_contents[0] == bytes(900)
        assert await plane.ready(GROW, version)
        assert (await plane.metadata(GROW, version)).name == "grow"


@pytest.mark.parametrize("target", [GROW, AWAY])
async def test_a_version_that_there_is_not_is_unknown(target: Target) -> None:
    message = request(1)
    message.model_version = "99"
    async with serving() as (plane, _, _):
        for call in (ask(plane, target, message), plane.ready(target, "99"), plane.metadata(target, "99")):
            with pytest.raises(UnknownResource, match=f'^model "{target.name}" has no version "99"; it has version 3$'):
                await call


async def test_a_version_of_what_is_not_loaded_is_told_as_such() -> None:
    message = request(1)
    message.model_version = "99"
    async with serving() as (plane, _, _):
        with pytest.raises(UnknownResource, match=r'^no model "nobody" is loaded$'):
            await ask(plane, Target(Owner.MODEL, "nobody"), message)


async def test_a_call_of_an_experiment_is_told_with_who_gets_it_and_a_question_is_not() -> None:
    drawn: list[tuple[str, str]] = []
    split = Target(Owner.EXPERIMENT, "ab")

    def way(target: Target, _: object) -> Way:
        return Way(GROW, None, "ab") if target == split else Way(target)

    async with serving(way=way, drawn=lambda *pair: drawn.append(pair)) as (plane, _, _):
        await plane.metadata(split)
        await ask(plane, GROW, request(1))
        assert drawn == []
        await ask(plane, split, request(1))
    assert drawn == [("ab", "grow")]
