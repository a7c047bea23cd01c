"""Calls by gRPC: the request from a REST body or protobuf's own JSON, the answer as one line of protobuf's JSON."""

from __future__ import annotations

import json
from typing import Any

import click
import grpc
from google.protobuf import json_format

from engine.cli import doors
from engine.cli.doors import ANSWER_SECONDS, Call, Pairs, Reply
from engine.errors import InvalidInput
from engine.protocol import columns, rest_json
from engine.protocol.messages import SERVICE, ModelInferRequest, ModelInferResponse
from engine.settings import host_and_port

PATH = f"/{SERVICE}/ModelInfer"

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A proxy for the web is none for a host that is named here.
    ("grpc.enable_http_proxy", 0),
)


class Grpc:
    """One channel to a gateway. Raises UsageError for what is no request, InvalidSettings for what is no address."""

    def __init__(self, call: Call) -> None:
        host_and_port(call.host, "--inference-host")
        self._call, self._message = call, message_of(call)
        authority = (("grpc.default_authority", call.authority),) if call.authority else ()
        self._channel = grpc.insecure_channel(call.host, options=(*OPTIONS, *authority))
        self._infer = self._channel.unary_unary(
            PATH,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=ModelInferResponse.FromString,
        )

    def call(self, headers: Pairs) -> Reply:
        """Call ModelInfer; an answer's raw contents are typed. Raises EngineError when there is no gateway."""
        try:
            message, call = self._infer.with_call(
                self._message, metadata=tuple(self._metadata(headers)), timeout=ANSWER_SECONDS
            )
        except grpc.RpcError as error:
            return self._failed(error)
        returned, trailers = _text_pairs(call.initial_metadata()), _text_pairs(call.trailing_metadata())
        return Reply(returned, trailers, _protojson(_typed(message)))

    def sent(self, headers: Pairs) -> list[str]:
        """The method, the host, and the metadata."""
        lines = [f"> {PATH} HTTP/2", f"> Host: {self._call.authority or self._call.host}"]
        return [*lines, *doors.header_lines(">", self._metadata(headers)), ""]

    def received(self, reply: Reply) -> list[str]:
        """The metadata of the response, that before the answer and that behind it."""
        return [*doors.header_lines("<", reply.headers), *doors.header_lines("<<", reply.trailers), ""]

    def request(self) -> str:
        """The message as one line of protobuf's JSON."""
        shown = ModelInferRequest()
        shown.CopyFrom(self._message)
        return _protojson(_typed(shown))

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _metadata(self, headers: Pairs) -> Pairs:
        return [("seldon-model", self._call.route), *((name.lower(), value) for name, value in headers)]

    def _failed(self, error: Any) -> Reply:
        returned, trailers = _text_pairs(error.initial_metadata()), _text_pairs(error.trailing_metadata())
        ours = any(name == "x-request-id" for name, _ in (*returned, *trailers))
        # Without a request id it was gRPC on this side that spoke, and not the gateway.
        if error.code() is grpc.StatusCode.UNAVAILABLE and not ours:
            raise doors.no_gateway(self._call.host, error.details()) from None
        return Reply(returned, trailers, error.details() or error.code().name, error.code().value[0])


def message_of(call: Call) -> Any:
    """The request as a message: from a REST body, whose tensors have "data", or from protobuf's own JSON.

    Raises UsageError for what is neither.
    """
    try:
        document = json.loads(call.data)
        if not isinstance(document, dict):
            raise click.UsageError("the request is no ModelInferRequest in JSON: it is no object")
        if _is_rest(document):
            message = rest_json.decode_request(call.data)
        else:
            message = json_format.ParseDict(document, ModelInferRequest())
    except (ValueError, TypeError, json_format.ParseError) as error:
        raise click.UsageError(f"the request is no ModelInferRequest in JSON: {error}") from None
    except RecursionError:
        raise click.UsageError("the request is no ModelInferRequest in JSON: it is nested too deeply") from None
    message.model_name = call.name
    return message


def _is_rest(document: dict[str, Any]) -> bool:
    inputs = document.get("inputs")
    return isinstance(inputs, list) and any(isinstance(entry, dict) and "data" in entry for entry in inputs)


def _typed(message: Any) -> Any:
    """A message with its raw contents typed, where they can be."""
    untouched = type(message)()
    untouched.CopyFrom(message)
    try:
        columns.to_typed(message, columns.REQUEST if isinstance(message, ModelInferRequest) else columns.RESPONSE)
    except (InvalidInput, ValueError):
        return untouched
    return message


def _protojson(message: Any) -> str:
    return json.dumps(json_format.MessageToDict(message), ensure_ascii=False, separators=(",", ":"))


def _text_pairs(metadata: Any) -> Pairs:
    return [
        (name, value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)
        for name, value in metadata or ()
    ]
