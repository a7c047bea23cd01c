"""What `infer` and `metadata` send and print, against the gateway's own server with a stand-in behind it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from engine.cli import infer, main, rest_door
from engine.errors import EngineError, ModelFailed, UnknownResource
from engine.gateway.inference import Answer, Target
from engine.gateway.server import Gateway
from engine.protocol import messages
from engine.protocol.record import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import click
    from click.testing import Result

    from engine.cli.doors import Pairs, Reply
    from engine.protocol.record import Headers

DATA = '{"inputs":[{"name":"x","data":[1,2],"datatype":"INT32","shape":[1,2]}]}'
ANSWER = """\
{
	"model_name": "echo",
	"outputs": [
		{
			"name": "x",
			"shape": [
				1,
				2
			],
			"datatype": "INT32",
			"data": [
				1,
				2
			]
		}
	]
}
"""
TYPED = '"datatype":"INT32","shape":["1","2"],"contents":{"intContents":[1,2]}}]}'
LINE = '{"modelName":"echo","outputs":[{"name":"x",' + TYPED + "\n"


class Fake:
    """NOT the product's data plane: echoes inputs as outputs; `fail` fails, other names are unknown."""

    def __init__(self) -> None:
        self.calls: list[tuple[Target, Any, Headers]] = []
        self.headers: Headers = ()

    def new_request_id(self) -> str:
        return "made"

    def check_room(self, _: Target) -> None:
        pass

    async def infer(self, target: Target, request: Any, headers: Headers, *, request_id: str, timeout: float) -> Answer:
        assert request_id
        assert timeout
        self.calls.append((target, request, headers))
        if target.name == "fail":
            raise ModelFailed("it broke", step="score")
        if target.name != "echo":
            raise UnknownResource(f'no {target.owner} "{target.name}" is loaded')
        message = messages.ModelInferResponse(model_name=target.name)
        for tensor in request.inputs:
            message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            if not request.raw_input_contents:
                message.outputs[-1].contents.CopyFrom(tensor.contents)
        message.raw_output_contents.extend(request.raw_input_contents)
        return Answer(message, (*headers, *self.headers))

    async def ready(self, target: Target, version: str = "") -> bool:  # noqa: ARG002  a stand-in has but one
        return target.name == "echo"

    async def metadata(self, target: Target, version: str = "") -> Any:  # noqa: ARG002  a stand-in has but one
        if target.name != "echo":
            raise UnknownResource(f'no {target.owner} "{target.name}" is loaded')
        message = messages.ModelMetadataResponse(name=target.name, versions=["1"], platform="fake")
        message.inputs.add(name="x", datatype="INT32", shape=[-1, 2])
        return message

    async def server_ready(self) -> bool:
        return True


class Served:
    """A gateway in a thread, as the commands block."""

    def __init__(self) -> None:
        self.fake, self.host = Fake(), ""
        self._loop, self._up = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._up.wait(20)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        gateway = Gateway(self.fake, max_message_bytes=100_000, request_timeout=10)
        await gateway.start("127.0.0.1", 0)
        self.host = "{}:{}".format(*gateway.address)
        self._stop = asyncio.Event()
        self._up.set()
        await self._stop.wait()
        await gateway.stop(0)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    it = Served()
    monkeypatch.setenv("SELDON_INFER_HOST", it.host)
    yield it
    it.stop()


def run(command: click.Command, *args: str) -> Result:
    return CliRunner().invoke(command, args)


def test_rest_prints_the_answer_indented_with_tabs(served: Served) -> None:
    result = run(infer.pipeline_infer, "echo", DATA)
    assert (result.exit_code, result.stdout, result.stderr) == (0, ANSWER, "")
    assert served.fake.calls[0][0] == Target(Owner.PIPELINE, "echo")


def test_a_models_call_is_for_the_model(served: Served) -> None:
    assert run(infer.model_infer, "echo", DATA).stdout == ANSWER
    assert served.fake.calls[0][0] == Target(Owner.MODEL, "echo")


@pytest.mark.parametrize("command", [infer.model_infer, infer.pipeline_infer], ids=["model", "pipeline"])
def test_a_name_that_says_its_kind_is_called_as_that(served: Served, command: click.Command) -> None:
    run(command, "echo.experiment", DATA)
    assert served.fake.calls[0][0] == Target(Owner.EXPERIMENT, "echo")


def test_the_documented_call_shows_the_headers_of_both_ways(served: Served) -> None:
    lines = run(infer.pipeline_infer, "--show-headers", "--header", "X-foo=bar", "echo", DATA).stdout.splitlines()
    assert lines[:6] == [
        "> POST /v2/models/echo/infer HTTP/1.1",
        f"> Host: {served.host}",
        "> Content-Type:[application/json]",
        "> Seldon-Model:[echo.pipeline]",
        "> X-Foo:[bar]",
        "",
    ]
    end = lines.index("", 6)
    assert all(line.startswith("< ") for line in lines[6:end])
    assert {"< X-Foo:[bar]", "< X-Request-Id:[made]"} <= set(lines[6:end])
    assert "\n".join(lines[end + 1 :]) + "\n" == ANSWER


def test_grpc_prints_one_line_of_protojson_with_typed_contents(served: Served) -> None:
    assert run(infer.pipeline_infer, "echo", DATA, "--inference-mode", "grpc").stdout == LINE
    assert served.fake.calls[0][0] == Target(Owner.PIPELINE, "echo")


@pytest.mark.parametrize("field", ["int_contents", "intContents"])
def test_grpc_takes_protobufs_json_and_replaces_the_models_name(served: Served, field: str) -> None:
    data = json.dumps(
        {
            "model_name": "other",
            "inputs": [{"name": "x", "datatype": "INT32", "shape": [1, 2], "contents": {field: [1, 2]}}],
        }
    )
    assert run(infer.model_infer, "echo", data, "--inference-mode", "grpc").stdout == LINE
    assert served.fake.calls[0][1].model_name == "echo"


def test_grpc_shows_headers_of_both_ways(served: Served) -> None:
    args = ("--show-headers", "--header", "X-foo=bar", "--header", "X-foo=baz", "--inference-mode", "grpc")
    assert run(infer.pipeline_infer, *args, "echo", DATA).stdout.splitlines() == [
        "> /inference.GRPCInferenceService/ModelInfer HTTP/2",
        f"> Host: {served.host}",
        "> seldon-model:[echo.pipeline]",
        "> x-foo:[bar baz]",
        "",
        "< x-request-id:[made]",
        "< x-foo:[bar baz]",
        "",
        LINE.rstrip("\n"),
    ]


@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_an_error_is_the_gateways_own_text(served: Served, mode: str) -> None:
    result = run(infer.pipeline_infer, "fail", DATA, "--inference-mode", mode)
    assert isinstance(result.exception, EngineError)
    assert (str(result.exception), result.stdout) == ("score : it broke", "")
    assert len(served.fake.calls) == 1


@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_iterations_print_how_many_took_which_route(served: Served, mode: str) -> None:
    served.fake.headers = (("x-seldon-route", b":echo_1:"),)
    result = run(infer.pipeline_infer, "echo", DATA, "-i", "5", "--inference-mode", mode, "--show-headers")
    assert (result.exit_code, result.stdout) == (0, "Success: map[:echo_1::5]\n")


@pytest.mark.parametrize(("mode", "code"), [("rest", 500), ("grpc", 13)])
def test_iterations_print_errors_by_code_and_fail(served: Served, mode: str, code: int) -> None:
    result = run(infer.pipeline_infer, "fail", DATA, "-i", "3", "--inference-mode", mode)
    assert result.stdout == f"Success: map[]\nErrors: map[:map[{code}:3]]\n"
    assert isinstance(result.exception, EngineError)
    assert len(served.fake.calls) == 3


def test_seconds_call_until_they_are_over(served: Served) -> None:
    assert run(infer.pipeline_infer, "echo", DATA, "-t", "0.2").stdout.startswith("Success: map[:")
    assert len(served.fake.calls) > 1


def test_an_interrupt_prints_what_has_been_counted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    calling = rest_door.Rest.call

    def call(door: rest_door.Rest, headers: Pairs) -> Reply:
        if len(served.fake.calls) == 3:
            raise KeyboardInterrupt
        return calling(door, headers)

    monkeypatch.setattr(rest_door.Rest, "call", call)
    result = run(infer.pipeline_infer, "echo", DATA, "-t", "60")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Success: map[:3]\n", "")


@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_a_sticky_session_resends_the_route_of_the_last_answer(served: Served, home: Path, mode: str) -> None:
    served.fake.headers = (("x-seldon-route", b":echo_1:"),)
    for _ in range(2):
        run(infer.pipeline_infer, "echo", DATA, "-s", "--inference-mode", mode)
    first, second = ([v for n, v in call[2] if n == "x-seldon-route"] for call in served.fake.calls)
    assert (first, second) == ([], [b":echo_1:"])
    assert (home / ".config/seldon/cli/session").read_text(encoding="utf-8").startswith(":echo_1:")


def test_the_request_comes_from_a_file(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(DATA, encoding="utf-8")
    assert run(infer.model_infer, "echo", "-f", str(path)).stdout == ANSWER
    assert len(served.fake.calls) == 1


@pytest.mark.parametrize("args", [("-o=false",), ("--show-response=false",), ("--no-show-response", "-r=false")])
def test_an_answer_that_is_not_wanted_is_not_shown(served: Served, args: tuple[str, ...]) -> None:
    assert run(main, "model", "infer", "echo", DATA, *args).stdout == ""
    assert len(served.fake.calls) == 1


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("rest", json.dumps(json.loads(DATA), indent="\t")),
        ("grpc", '{"modelName":"echo","inputs":[{"name":"x",' + TYPED),
    ],
)
def test_the_request_is_shown_when_asked_for(served: Served, mode: str, shown: str) -> None:
    args = ("-r", "--no-show-response", "--inference-mode", mode)
    assert run(infer.model_infer, "echo", DATA, *args).stdout == f"{shown}\n"
    assert len(served.fake.calls) == 1


def test_the_authority_is_shown_as_the_host(served: Served) -> None:
    assert served.host
    result = run(infer.model_infer, "echo", DATA, "--authority", "mesh.example", "--show-headers")
    assert "> Host: mesh.example\n" in result.stdout


@pytest.mark.parametrize("header", ["foo", "foo=a=b", "=v", "a b=c"])
def test_a_badly_formed_header_is_wrong_input(header: str) -> None:
    result = run(infer.model_infer, "echo", DATA, "--header", header)
    assert result.exit_code == 2
    assert f"Badly formed header {header}: use key=val" in result.stderr


def test_a_host_header_is_wrong_input() -> None:
    result = run(infer.model_infer, "echo", DATA, "--header", "Host=x")
    assert result.exit_code == 2
    assert "Setting Host via headers is not supported, please use '--authority' instead" in result.stderr


@pytest.mark.parametrize("args", [(), (DATA, "-f", "-")])
def test_a_request_comes_from_one_place(args: tuple[str, ...]) -> None:
    assert run(infer.model_infer, "echo", *args).exit_code == 2


@pytest.mark.parametrize("data", ["[]", DATA.replace("INT32", "INT33")])
@pytest.mark.parametrize(("mode", "code"), [("rest", 1), ("grpc", 2)])
def test_what_is_json_and_no_request_is_for_the_gateway_to_refuse_by_rest_alone(
    served: Served, data: str, mode: str, code: int
) -> None:
    where = ("--inference-host", served.host, "--inference-mode", mode)
    result = CliRunner().invoke(main, ["pipeline", "infer", "echo", data, *where])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("data", ["{", "[]", '{"inputs": 5}', '{"nothing": 1}'])
def test_what_is_no_message_is_wrong_input_for_grpc(data: str) -> None:
    args = ("--inference-mode", "grpc", "--inference-host", "127.0.0.1:1")
    assert run(infer.model_infer, "echo", data, *args).exit_code == 2


@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_what_is_no_json_is_wrong_input_whether_there_is_a_gateway_or_not(mode: str) -> None:
    args = ("--inference-mode", mode, "--inference-host", "127.0.0.1:1")
    result = run(infer.model_infer, "echo", '{"inputs": ', *args)
    assert (result.exit_code, "Expecting value: line 1 column 12" in result.stderr) == (2, True)


@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_a_gateway_that_is_not_there_is_told_of_with_what_to_do(mode: str) -> None:
    result = run(infer.model_infer, "echo", DATA, "--inference-host", "127.0.0.1:1", "--inference-mode", mode)
    assert isinstance(result.exception, EngineError)
    assert str(result.exception).startswith("no gateway answers at 127.0.0.1:1 (")
    assert "seldon up" in str(result.exception)


def test_a_request_over_the_gateways_limit_gets_its_text(served: Served) -> None:
    data = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["y" * 10_000_000]}]})
    result = run(infer.model_infer, "echo", data, "--inference-host", served.host)
    assert "over the limit" in str(result.exception)


def test_metadata_is_printed_as_indented_json(served: Served) -> None:
    result = run(infer.model_metadata, "echo", "--inference-host", served.host)
    assert json.loads(result.stdout)["inputs"] == [{"name": "x", "datatype": "INT32", "shape": [-1, 2]}]
    assert result.stdout.startswith('{\n\t"name": "echo",\n')


def test_metadata_of_an_unknown_model_fails(served: Served) -> None:
    result = run(infer.model_metadata, "nix", "--inference-host", served.host)
    assert str(result.exception) == 'no model "nix" is loaded'


def test_what_takes_calls_and_says_nothing_is_no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_door, "LOOK_SECONDS", 0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        host = "{}:{}".format(*silent.getsockname())
        result = run(infer.pipeline_infer, "echo", DATA, "--inference-host", host)
    assert isinstance(result.exception, EngineError)
    assert str(result.exception) == f"no gateway answers at {host}: it says nothing; name another by --inference-host"


def test_a_gateway_that_lives_is_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_door, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(rest_door.Rest, "_lives", lambda _: True)
    assert run(infer.pipeline_infer, "echo", DATA, "--inference-host", served.host).stdout == ANSWER
