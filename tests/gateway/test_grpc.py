from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import engine
from engine.gateway.grpc import HEALTH_SERVICE
from engine.gateway.inference import Target
from engine.protocol import messages
from engine.protocol.record import Owner

if TYPE_CHECKING:
    from engine.errors import RequestError


async def failure_of(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """A call's status, text and trailers."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or "", dict(caught.value.trailing_metadata() or ())


async def test_typed_contents_are_answered_typed(served: Any, typed: Any) -> None:
    answer = await served.infer(typed)
    assert (answer.model_name, answer.id) == ("echo", "7")
    assert list(answer.outputs[0].contents.int_contents) == [1, 2]
    assert not answer.raw_output_contents


async def test_raw_contents_are_answered_raw(served: Any, raw: Any) -> None:
    answer = await served.infer(raw)
    assert list(answer.raw_output_contents) == [b"\1\0\0\0\2\0\0\0"]
    assert not answer.outputs[0].HasField("contents")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), Target(Owner.MODEL, "echo")),
        ((("seldon-model", "echo.model"),), Target(Owner.MODEL, "echo")),
        ((("seldon-model", "echo.pipeline"),), Target(Owner.PIPELINE, "echo")),
        ((("seldon-model", "echo.explainer"),), Target(Owner.EXPLAINER, "echo")),
    ],
)
async def test_metadata_routes_else_the_models_name(
    served: Any, raw: Any, metadata: tuple[tuple[str, str], ...], expected: Target
) -> None:
    await served.infer(raw, metadata=metadata)
    assert served.inference.calls[0][0] == expected


async def test_headers_travel_and_come_back(served: Any, raw: Any) -> None:
    served.inference.headers = (("x-added", b"1"), ("x-bad", b"a\r\nb"), ("x-utf8", "é".encode()))
    sent = (("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-c-bin", b"\0"), ("x-request-id", "mine"))
    call = served.infer(raw, metadata=sent)
    await call
    # grpc.aio's client groups metadata by name, so the order of different names is not the caller's any more.
    back = [pair for pair in await call.initial_metadata() if pair[0].startswith("x-")]
    assert back == [("x-request-id", "mine"), ("x-a", "1"), ("x-a", "3"), ("x-b", "2"), ("x-added", "1")]
    _, _, headers, request_id, _ = served.inference.calls[0]
    assert headers == (("x-a", b"1"), ("x-a", b"3"), ("x-b", b"2"))
    assert request_id == "mine"


async def test_the_least_of_deadline_header_and_setting_holds(served: Any, raw: Any) -> None:
    await served.infer(raw)
    await served.infer(raw, timeout=20)
    await served.infer(raw, timeout=20, metadata=(("x-request-timeout-ms", "250"),))
    unlimited, deadline, header = (call[4] for call in served.inference.calls)
    assert (unlimited, header) == (30.0, 0.25)
    # gRPC sends a deadline in few digits and rounds it up.
    assert 10 < deadline < 21


async def test_each_error_has_its_status_and_a_request_id(
    served: Any, raw: Any, failure: tuple[RequestError, int, grpc.StatusCode]
) -> None:
    error, _, status = failure
    served.inference.failures["echo"] = error
    call = served.infer(raw, metadata=(("x-request-id", "mine"),))
    code, text, trailers = await failure_of(call)
    assert (code, text) == (status, f"{error.step} : {error.text}" if error.step else error.text)
    assert trailers["x-request-id"] == "mine"
    assert dict(await call.initial_metadata())["x-request-id"] == "mine"


async def test_only_what_is_refused_for_lack_of_room_says_when_to_come_back(
    served: Any, raw: Any, failure: tuple[RequestError, int, grpc.StatusCode]
) -> None:
    served.inference.failures["echo"], status, _ = failure
    _, _, trailers = await failure_of(served.infer(raw))
    assert trailers.get("grpc-retry-pushback-ms") == ("1000" if status == 429 else None)


async def test_a_fault_of_ours_is_told_and_logged(served: Any, raw: Any, caplog: pytest.LogCaptureFixture) -> None:
    served.inference.failures["echo"] = KeyError("secret")
    code, text, trailers = await failure_of(served.infer(raw))
    assert code == grpc.StatusCode.INTERNAL
    assert "secret" not in text
    assert "secret" in caplog.text
    assert trailers["x-request-id"].startswith("made-")


async def test_a_very_long_error_reaches_the_caller(served: Any, raw: Any) -> None:
    served.inference.failures["echo"] = engine.errors.ModelFailed("é" * 100_000)
    code, text, _ = await failure_of(served.infer(raw))
    assert code == grpc.StatusCode.INTERNAL
    assert text.startswith("éé")


@pytest.mark.parametrize(
    "metadata",
    [
        (("x-request-timeout-ms", "soon"),),
        (("x-a.b", "1"),),
        (("seldon-model", "a.b.c"),),
        (("x-request-id", "x" * 129),),
    ],
)
async def test_unfit_metadata_is_refused(served: Any, raw: Any, metadata: tuple[tuple[str, str], ...]) -> None:
    code, _, trailers = await failure_of(served.infer(raw, metadata=metadata))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert trailers["x-request-id"].startswith("made-")


async def test_a_message_that_is_none_is_malformed(served: Any) -> None:
    call = served.channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
    code, text, trailers = await failure_of(call(b"\xff\xff"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "inference.ModelInferRequest" in text
    assert "x-request-id" in trailers


async def test_a_call_that_names_nothing_is_told_which_header_to_set(served: Any) -> None:
    code, text, _ = await failure_of(served.infer(messages.ModelInferRequest()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "seldon-model" in text


async def test_a_message_over_the_limit_is_refused(small: Any, raw: Any) -> None:
    raw.raw_input_contents[0] = bytes(1001)
    code, _, _ = await failure_of(small.infer(raw))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_packed_message_is_limited_by_what_it_unpacks_to(small: Any, raw: Any) -> None:
    raw.raw_input_contents[0] = bytes(500_000)
    code, _, _ = await failure_of(small.infer(raw, compression=grpc.Compression.Gzip))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_answer_over_the_limit_is_an_error_with_a_request_id(small: Any, raw: Any) -> None:
    small.inference.version = "v" * 1000
    code, text, trailers = await failure_of(small.infer(raw, metadata=(("x-request-id", "mine"),)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the answer takes" in text
    assert trailers["x-request-id"] == "mine"


async def test_server_and_model_state(served: Any) -> None:
    async def ask(name: str, request: Any, response: Any) -> Any:
        call = served.unary(name, response)(request)
        answer = await call
        assert dict(await call.initial_metadata())["x-request-id"]
        return answer

    assert (await ask("ServerLive", messages.ServerLiveRequest(), messages.ServerLiveResponse)).live
    assert (await ask("ServerReady", messages.ServerReadyRequest(), messages.ServerReadyResponse)).ready
    server = await ask("ServerMetadata", messages.ServerMetadataRequest(), messages.ServerMetadataResponse)
    assert (server.name, server.version) == ("millrace", engine.__version__)
    model = messages.ModelReadyRequest(name="echo")
    assert (await ask("ModelReady", model, messages.ModelReadyResponse)).ready
    described = await ask("ModelMetadata", messages.ModelMetadataRequest(name="echo"), messages.ModelMetadataResponse)
    assert described.inputs[0].name == "x"

    served.inference.is_ready = False
    assert not (await ask("ServerReady", messages.ServerReadyRequest(), messages.ServerReadyResponse)).ready
    assert not (await ask("ModelReady", model, messages.ModelReadyResponse)).ready


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
async def test_a_question_asks_for_the_version_that_it_names(served: Any, method: str) -> None:
    ask = served.unary(method, getattr(messages, f"{method}Response"))
    for version in ("", "7"):
        await ask(getattr(messages, f"{method}Request")(name="echo", version=version))
    assert served.inference.asked == ["", "7"]


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
async def test_an_unknown_model_is_not_found(served: Any, method: str) -> None:
    request = getattr(messages, f"{method}Request")(name="none")
    call = served.unary(method, getattr(messages, f"{method}Response"))(request)
    code, _, trailers = await failure_of(call)
    assert code == grpc.StatusCode.NOT_FOUND
    assert "x-request-id" in trailers


async def test_a_stream_is_answered_in_order_under_ids_of_its_own(served: Any, typed: Any) -> None:
    call = served.stream(metadata=(("x-request-id", "mine"), ("x-a", "1")))
    for number in range(3):
        typed.id = str(number)
        await call.write(typed)
    await call.done_writing()
    assert [answer.id async for answer in call] == ["0", "1", "2"]
    metadata = dict(await call.initial_metadata())
    assert (metadata["x-request-id"], metadata["x-a"]) == ("mine", "1")
    assert [each[3] for each in served.inference.calls] == ["mine", "mine-2", "mine-3"]


async def test_an_error_ends_a_stream_after_the_answers_before_it(served: Any, typed: Any) -> None:
    call = served.stream(metadata=(("x-request-id", "mine"),))
    await call.write(typed)
    assert (await call.read()).id == "7"
    typed.model_name = "none"
    await call.write(typed)
    code, _, trailers = await failure_of(call.read())
    assert code == grpc.StatusCode.NOT_FOUND
    assert trailers["x-request-id"] == "mine"


async def test_a_stream_that_begins_with_raw_contents_is_answered_as_tritons_clients_expect(
    served: Any, raw: Any
) -> None:
    call = served.triton_stream(metadata=(("x-request-id", "mine"),))
    for number, name in enumerate(("echo", "none", "echo")):
        raw.id, raw.model_name = str(number), name
        await call.write(raw)
    await call.done_writing()
    answers = [answer async for answer in call]
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]
    assert [answer.error_message for answer in answers] == ["", 'no model "none"', ""]
    assert list(answers[2].infer_response.raw_output_contents) == list(raw.raw_input_contents)
    assert [each[3] for each in served.inference.calls] == ["mine", "mine-2", "mine-3"]


async def test_an_answer_over_the_limit_leaves_a_triton_stream_usable(small: Any, raw: Any) -> None:
    call = small.triton_stream()
    for version in ("v" * 1000, ""):
        small.inference.version = version
        await call.write(raw)
        answer = await call.read()
        assert ("the limit is 1000" in answer.error_message) is bool(version)
    await call.done_writing()


async def test_a_stream_may_say_which_responses_it_expects(served: Any, raw: Any, typed: Any) -> None:
    plain = served.stream(metadata=(("seldon-stream", "oip"),))
    await plain.write(raw)
    assert (await plain.read()).model_name == "echo"
    await plain.done_writing()
    triton = served.triton_stream(metadata=(("seldon-stream", "triton"),))
    await triton.write(typed)
    assert (await triton.read()).infer_response.model_name == "echo"
    await triton.done_writing()
    other = served.stream(metadata=(("seldon-stream", "other"),))
    await other.write(raw)
    code, text, _ = await failure_of(other.read())
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, 'the header "seldon-stream" has to be oip or triton')


async def test_each_request_of_a_stream_has_its_own_deadline(served: Any, raw: Any) -> None:
    call = served.triton_stream(timeout=20, metadata=(("x-request-timeout-ms", "15000"),))
    for _ in range(2):
        await call.write(raw)
        await call.read()
    await call.done_writing()
    assert [each[4] for each in served.inference.calls] == [15.0, 15.0]


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_caller_who_leaves_a_stream_frees_the_request_that_is_out(
    served: Any, raw: Any, *, cancelled: bool
) -> None:
    raw.model_name = "slow"
    call = served.triton_stream(timeout=None if cancelled else 1.0)
    for _ in range(3):
        await call.write(raw)
    await served.inference.entered.get()
    if cancelled:
        call.cancel()
    async with asyncio.timeout(10):
        await served.inference.left.get()
    served.inference.release.set()
    code = await call.code()
    assert code is (grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.DEADLINE_EXCEEDED)
    # Those that waited behind it were never begun.
    assert served.inference.entered.empty()


async def test_a_caller_who_leaves_frees_its_call(served: Any, raw: Any) -> None:
    raw.model_name = "slow"
    call = served.infer(raw)
    await served.inference.entered.get()
    call.cancel()
    async with asyncio.timeout(10):
        await served.inference.left.get()


async def test_a_caller_whose_deadline_passes_frees_its_call(served: Any, raw: Any) -> None:
    raw.model_name = "slow"
    code, _, _ = await failure_of(served.infer(raw, timeout=0.2))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await served.inference.left.get()


async def test_health_follows_readiness(served: Any) -> None:
    check = served.unary("Check", health_pb2.HealthCheckResponse, HEALTH_SERVICE)
    for service in ("", messages.SERVICE):
        request = health_pb2.HealthCheckRequest(service=service)
        served.inference.is_ready = True
        assert (await check(request)).status == health_pb2.HealthCheckResponse.SERVING
        served.inference.is_ready = False
        assert (await check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    code, _, trailers = await failure_of(check(health_pb2.HealthCheckRequest(service="none")))
    assert code == grpc.StatusCode.NOT_FOUND
    assert "x-request-id" in trailers


async def test_a_watched_health_tells_of_changes_and_ends_with_the_gateway(served: Any) -> None:
    watch = served.channel.unary_stream(
        f"/{HEALTH_SERVICE}/Watch",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    async with asyncio.timeout(10):
        stopping = asyncio.create_task(served.gateway.stop(60))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.read() == grpc.aio.EOF
        await stopping


async def test_reflection_describes_every_service(served: Any) -> None:
    call = served.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    services = {service.name for service in (await call.read()).list_services_response.service}
    assert services == {messages.SERVICE, HEALTH_SERVICE, "grpc.reflection.v1alpha.ServerReflection"}
    for service in services:
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.done_writing()


async def test_an_unknown_method_is_unimplemented_with_a_request_id(served: Any) -> None:
    for path in (f"/{messages.SERVICE}/Nothing", "/no.Service/Nothing"):
        code, text, trailers = await failure_of(served.channel.unary_unary(path)(b""))
        assert code == grpc.StatusCode.UNIMPLEMENTED
        assert path in text
        assert "x-request-id" in trailers


async def test_a_tensor_of_16_mib(served: Any, raw: Any) -> None:
    raw.inputs[0].shape[:] = [4 << 20]
    raw.raw_input_contents[0] = bytes(range(256)) * (1 << 16)
    answer = await served.infer(raw)
    assert answer.raw_output_contents[0] == raw.raw_input_contents[0]
