"""The data plane where an experiment decides who answers; models in other processes, and Kafka, are stand-ins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from engine.errors import InvalidInput, ModelFailed, RequestError
from engine.gateway.inference import DataPlane, Target, Way
from engine.kafka.replies import Reply
from engine.protocol.messages import ModelInferRequest, ModelInferResponse
from engine.protocol.record import Owner, RequestIds, Topics
from engine.protocol.routes import ROUTE
from engine.runtimes.contract import Part
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from conftest import Served

    from engine.gateway.inference import Answer
    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs, Headers

EXPERIMENT, HERE, AWAY, MIRROR, FLOW, SHADOW = (
    Target(Owner(kind), name)
    for kind, name in (
        ("experiment", "ab"),
        ("model", "here"),
        ("model", "away"),
        ("model", "mirror"),
        ("pipeline", "flow"),
        ("pipeline", "shadow"),
    )
)


class Catalogue:
    """NOT the registry: everything is loaded, at version 3."""

    def version(self, _: Target) -> int | None:
        return 3

    def answers(self, _: Target) -> bool:
        return True

    def ready(self, _: Target) -> bool:
        return True

    def metadata(self, _: Target) -> Any:
        return None


@dataclass
class Desk:
    """NOT Kafka: answers with an empty response and `headers`, or with an error, and keeps what it was given."""

    headers: Headers = ()
    error: RequestError | None = None
    called: list[tuple[str, bytes, Any, Headers]] = field(default_factory=list)
    copied: list[tuple[str, bytes, Any, Headers]] = field(default_factory=list)

    async def call(self, topic: str, key: bytes, value: bytes, headers: Headers, timeout: float) -> Any:  # noqa: ARG002
        self.called.append((topic, key, ModelInferRequest.FromString(value), headers))
        if self.error is not None:
            raise self.error
        return Reply(ModelInferResponse().SerializeToString(), self.headers)

    def copy(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        self.copied.append((topic, key, ModelInferRequest.FromString(value), headers))


class Here:
    """A model of this process that gives what it gets, or fails."""

    def __init__(self, error: RequestError | None = None) -> None:
        self._error = error
        self.headers: list[HeaderPairs] = []

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:  # noqa: ARG002
        self.headers += headers
        yield Part([0], self._error or columns)


def plane(way: Way, desk: Desk, runtime: Here | None = None) -> DataPlane:
    """Where the calls of an experiment go this way."""
    return DataPlane(
        Settings(),
        Topics("seldon", "ns"),
        Catalogue(),
        desk,
        RequestIds(bytes(5), 0, lambda: 0.0),
        runtime={"here": runtime}.get,  # type: ignore[arg-type]
        way=lambda *_: way,
        copy=desk.copy,
    )


async def ask(
    way: Way, desk: Desk, *, runtime: Here | None = None, headers: Headers = (), wanted: str | None = None
) -> Answer:
    message = ModelInferRequest(model_name="ab", id="7")
    message.inputs.add(name="x", datatype="INT64", shape=[1])
    message.raw_input_contents.append(np.full(1, 5, "<i8").tobytes())
    if wanted is not None:
        message.outputs.add(name=wanted)
    return await plane(way, desk, runtime).infer(EXPERIMENT, message, headers, request_id="r", timeout=5.0)


async def test_an_answer_names_who_gave_it() -> None:
    answer = await ask(Way(HERE), Desk(), runtime=Here(), headers=(("x-a", b"1"), (ROUTE, b":old_1:")))
    assert (answer.message.model_name, answer.headers) == (
        "here",
        (("x-a", b"1"), ("x-request-id", b"r"), (ROUTE, b":here_3:")),
    )


async def test_a_model_never_sees_the_route() -> None:
    runtime = Here()
    await ask(Way(HERE), Desk(), runtime=runtime, headers=((ROUTE, b":old_1:"),))
    assert runtime.headers == [(("x-request-id", b"r"),)]


async def test_a_model_elsewhere_is_told_that_its_call_was_drawn() -> None:
    desk = Desk((("x-a", b"1"), (ROUTE, b":away_3:")))
    answer = await ask(Way(AWAY), desk, headers=((ROUTE, b":here_1:"),))
    [(topic, key, message, headers)] = desk.called
    assert (topic, key, message.model_name) == ("seldon.ns.model.away.inputs", b"away.r", "away")
    assert headers == (("x-request-id", b"r"), (ROUTE, b":away_3:"))
    assert answer.headers == (("x-a", b"1"), (ROUTE, b":away_3:"))


async def test_the_steps_of_a_pipeline_take_the_routes_that_were_asked_for() -> None:
    desk = Desk(((ROUTE, b":add_2:"), ("x-a", b"1")))
    answer = await ask(Way(FLOW), desk, headers=((ROUTE, b":add_1:"), (ROUTE, b":flow.pipeline:")))
    [(topic, _, _, headers)] = desk.called
    assert topic == "seldon.ns.pipeline.flow.inputs"
    assert headers[1:] == ((ROUTE, b":add_1:"), (ROUTE, b":flow.pipeline:"), ("pipeline", b"flow"))
    assert answer.headers == (("x-a", b"1"), (ROUTE, b":add_2:"), (ROUTE, b":flow.pipeline:"))


async def test_a_mirror_gets_the_request_of_a_call_that_is_answered_here() -> None:
    desk = Desk()
    await ask(Way(HERE, MIRROR), desk, runtime=Here(), headers=(("x-a", b"1"),))
    [(topic, key, message, headers)] = desk.copied
    assert (topic, key) == ("seldon.ns.model.mirror.inputs", b"mirror.r")
    assert (message.id, message.raw_input_contents[0][0]) == ("7", 5)
    assert headers == (("x-a", b"1"), ("x-request-id", b"r"), (ROUTE, b":mirror_3:"))
    assert desk.called == []


async def test_a_pipeline_that_mirrors_gets_the_request_under_its_own_name() -> None:
    desk = Desk()
    await ask(Way(FLOW, SHADOW), desk)
    [(topic, key, _, headers)] = desk.copied
    assert (topic, key) == ("seldon.ns.pipeline.shadow.inputs", b"shadow.r")
    assert headers == (("x-request-id", b"r"), ("pipeline", b"shadow"))


async def test_nothing_is_copied_without_a_mirror() -> None:
    desk = Desk()
    await ask(Way(FLOW), desk)
    assert desk.copied == []


async def test_an_error_names_whose_it_is() -> None:
    with pytest.raises(ModelFailed) as caught:
        await ask(Way(HERE), Desk(), runtime=Here(ModelFailed("it broke")))
    assert (caught.value.step, caught.value.headers) == ("here", ((ROUTE, b":here_3:"),))


async def test_an_error_of_a_step_names_the_steps_route_too() -> None:
    error = ModelFailed("it broke", step="add")
    error.headers = ((ROUTE, b":add_2:"),)
    with pytest.raises(ModelFailed) as caught:
        await ask(Way(FLOW), Desk(error=error))
    assert caught.value.headers == ((ROUTE, b":add_2:"), (ROUTE, b":flow.pipeline:"))


async def test_an_output_that_nobody_gives_is_an_error_with_a_route_as_well() -> None:
    with pytest.raises(InvalidInput) as caught:
        await ask(Way(FLOW), Desk(), wanted="none")
    assert caught.value.headers == ((ROUTE, b":flow.pipeline:"),)


async def test_metadata_of_an_experiment_is_that_of_a_candidate() -> None:
    assert (await plane(Way(AWAY), Desk()).metadata(EXPERIMENT)).name == "away"


@pytest.mark.parametrize("path", ["experiments/echo", "models/any"])
async def test_an_experiment_is_called_by_its_path_or_by_the_header(
    served: Served, document: dict[str, Any], path: str
) -> None:
    headers = {"seldon-model": "echo.experiment"} if path == "models/any" else {}
    async with served.session.post(f"{served.url}/v2/{path}/infer", json=document, headers=headers) as response:
        assert response.status == 200
    assert [call[0] for call in served.inference.calls] == [Target(Owner.EXPERIMENT, "echo")]


async def test_both_doors_tell_the_route_of_an_error(served: Served, document: dict[str, Any], typed: Any) -> None:
    error = ModelFailed("it broke")
    error.headers = ((ROUTE, b":add_2:"), (ROUTE, b":echo.pipeline:"))
    served.inference.failures["echo"] = error
    async with served.session.post(f"{served.url}/v2/models/echo/infer", json=document) as response:
        assert (response.status, response.headers.getall(ROUTE)) == (500, [":add_2:", ":echo.pipeline:"])
    call = served.infer(typed)
    told = [value for name, value in await call.initial_metadata() if name == ROUTE]
    assert (await call.code(), told) == (grpc.StatusCode.INTERNAL, [":add_2:", ":echo.pipeline:"])
