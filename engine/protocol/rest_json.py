"""V2 REST bodies: JSON, and tensors in binary behind it, to messages and back.

A body is read into a message with raw contents, so that REST and gRPC requests are one thing from here on.
Numbers keep all their bits, those of 64 bits too. What JSON cannot say is said as follows: NaN and infinities
are written as `null` and read from `null` (NaN), `"NaN"`, `"Infinity"` and `"-Infinity"`. The elements of a
BYTES tensor are text in requests unless its parameter `content_type` is `base64`, and base64 in answers
unless that is one of `TEXT`. The parameter goes along with the tensor. MLServer's codecs put base64 text into
tensors of content type `base64`, over gRPC too: what stands so in an answer is not encoded once more.

Binary tensors (Triton's "binary tensor data extension"): a header says how long the JSON is; tensors whose parameter
`binary_data_size` says so have their raw contents behind it, one after the other. Callers ask for answers of that
kind by the parameter `binary_data` of an output, or `binary_data_output` of the request. None of these parameters
goes any further than here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from engine.errors import InvalidInput
from engine.protocol import elements, large_json, tensors
from engine.protocol.columns import REQUEST, RESPONSE, check_raw_count
from engine.protocol.elements import TYPE_NAMES, quoted
from engine.protocol.messages import ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.protocol.columns import Kind

# Values of `content_type` that make the elements of a BYTES tensor text in an answer, as MLServer's codecs want them.
TEXT = frozenset({"str", "string", "datetime", "np", "pd", "pd_json"})

# The one that makes them base64 in JSON.
BASE64 = "base64"

_CONTENT_TYPE = "content_type"

_BINARY_SIZE = "binary_data_size"
_BINARY_OUTPUT = "binary_data"
_BINARY_OUTPUTS = "binary_data_output"

_MAX_INT64 = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class BinaryOutputs:
    """Which outputs a caller wants in binary: `named` those that it spoke of, `others` all that it did not."""

    named: Mapping[str, bool]
    others: bool

    def __contains__(self, name: str) -> bool:
        return self.named.get(name, self.others)


NO_BINARY = BinaryOutputs({}, others=False)


def decode_request(body: bytes) -> Any:
    """A request in JSON as a `ModelInferRequest` with raw contents.

    InvalidInput names the tensor, what was expected and what was found. Members that are `null` count as absent,
    since MLServer's client writes every member it knows; unknown members are passed over.
    """
    return decode_call(body)[0]


def decode_call(body: bytes, json_length: int | None = None) -> tuple[Any, BinaryOutputs]:
    """The body of an infer call as `decode_request` gives it, and which outputs of its answer are wanted in binary.

    `json_length`: so many bytes of it are JSON, and what follows are binary tensors.
    """
    binary = _Binary(body, json_length)
    document = _document(body if json_length is None else body[:json_length], "inputs")
    message = ModelInferRequest(id=_optional_text(document, "id", "the request"))
    _read_parameters(document, message.parameters, "the request")
    inputs = _objects(document, "inputs", "the request")
    if not inputs:
        raise InvalidInput("the request has no inputs")
    for number, item in enumerate(inputs):
        _read_tensor(item, f"input {number}", message, REQUEST, _text_in_request, binary)
    binary.end()
    outputs = [] if document.get("outputs") is None else _objects(document, "outputs", "the request")
    for number, item in enumerate(outputs):
        output = message.outputs.add(name=_name(item, f"output {number}"))
        _read_parameters(item, output.parameters, f'output "{output.name}"')
    _refuse_repeated(message.inputs, "input")
    _refuse_repeated(message.outputs, "output")
    others = bool(_taken_out(message.parameters, _BINARY_OUTPUTS))
    asked = {output.name: _taken_out(output.parameters, _BINARY_OUTPUT) for output in message.outputs}
    return message, BinaryOutputs({name: bool(is_) for name, is_ in asked.items() if is_ is not None}, others)


def _taken_out(parameters: Any, name: str) -> Any:
    """The value of a parameter that goes no further; None when there is none."""
    if name not in parameters:
        return None
    value = getattr(parameters[name], parameters[name].WhichOneof("parameter_choice"))
    del parameters[name]
    return value


class _Binary:
    """The binary tensors behind the JSON of a body, taken one after the other."""

    def __init__(self, body: bytes, json_length: int | None) -> None:
        if json_length is not None and not 0 <= json_length <= len(body):
            raise InvalidInput(f"the JSON is said to be {json_length} bytes long, and the body is {len(body)}")
        self._body, self._at = body, len(body) if json_length is None else json_length

    def take(self, size: object, tensor: str) -> bytes:
        """The raw contents of the next tensor."""
        left = len(self._body) - self._at
        if type(size) is not int or not 0 <= size <= left:
            found = quoted(size)
            raise InvalidInput(
                f'tensor "{tensor}" has {found} as parameter "{_BINARY_SIZE}"; {left} bytes are left behind the JSON'
            )
        self._at += size
        return self._body[self._at - size : self._at]

    def end(self) -> None:
        """InvalidInput when there is more than the tensors say."""
        if self._at < len(self._body):
            raise InvalidInput(f"{len(self._body) - self._at} bytes behind the JSON belong to no tensor")


def decode_response(body: bytes, *, text: bool = False) -> Any:
    """An answer as a `ModelInferResponse` with raw contents.

    BYTES are read as `encode_response` writes them. With `text`, all are text but those whose `content_type`
    is base64: so other V2 servers write them. InvalidInput names the tensor, what was expected and what was
    found.
    """
    document = _document(body, "outputs")
    message = ModelInferResponse()
    for member in ("model_name", "model_version", "id"):
        setattr(message, member, _optional_text(document, member, "the response"))
    _read_parameters(document, message.parameters, "the response")
    as_text = _text_of_server if text else _text_in_response
    binary = _Binary(body, None)
    for number, item in enumerate(_objects(document, "outputs", "the response")):
        _read_tensor(item, f"output {number}", message, RESPONSE, as_text, binary)
    return message


def encode_request(message: Any) -> bytes:
    """A `ModelInferRequest`, with raw or typed contents, as the body of a REST call.

    BYTES tensors that are not UTF-8 throughout get the parameter `content_type` `base64`. InvalidInput when
    contents do not fill their shapes.
    """
    document: dict[str, Any] = {"id": message.id} if message.id else {}
    _write_parameters(message, document)
    document["inputs"] = [_tensor(item, raw, _bytes_in_request) for item, raw in _contents(message, REQUEST)]
    if message.outputs:
        document["outputs"] = [_requested(output) for output in message.outputs]
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_response(message: Any) -> bytes:
    """A `ModelInferResponse`, with raw or typed contents, in JSON.

    BYTES whose `content_type` says text and that are not UTF-8 are written as base64, and it then says so; those
    of content type base64 stand as they are when they are that. InvalidInput when contents do not fill their shapes.
    """
    return encode_answer(message, NO_BINARY)[0]


def encode_answer(message: Any, binary: BinaryOutputs) -> tuple[bytes, int | None]:
    """The body of a REST answer as `encode_response` gives it, and how much of it is JSON; None when all of it is."""
    document: dict[str, Any] = {"model_name": message.model_name}
    if message.model_version:
        document["model_version"] = message.model_version
    if message.id:
        document["id"] = message.id
    _write_parameters(message, document)
    outputs: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for item, raw in _contents(message, RESPONSE):
        if item.name in binary:
            outputs.append(_described_binary(item, raw))
            behind.append(raw)
        else:
            outputs.append(_tensor(item, raw, _bytes_in_response))
    document["outputs"] = outputs
    written = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([written, *behind]), len(written)) if behind else (written, None)


def encode_error(text: str) -> bytes:
    """The V2 error object."""
    # A text that came in by a header may hold what UTF-8 cannot say.
    return orjson.dumps({"error": text.encode("utf-8", "replace").decode()})


# Whether the elements of a BYTES tensor stand as text; reading and writing ask the same question.


def _text_in_request(content_type: object, _: object = None) -> bool:
    return content_type != BASE64


def _text_in_response(content_type: object, _: object = None) -> bool:
    return content_type in TEXT


def _text_of_server(content_type: object, elements: Sequence[Any]) -> bool:
    """Whether another server's elements are text: also base64 of base64, which would be written once decoded only."""
    if content_type != BASE64:
        return True
    try:
        return _are_base64([base64.b64decode(element, validate=True) for element in elements])
    except (TypeError, ValueError):
        return True


# Reading: members of objects.


def _document(body: bytes, member: str) -> dict[str, Any]:
    """The object of a body; `member` is the one that has the tensors, whose `data` may be arrays of numpy."""
    if (large := large_json.document(body, member)) is not None:
        return large
    if not body.strip():
        raise InvalidInput("the body is empty; expected a JSON object")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"the body is {TYPE_NAMES[type(document)]}; expected a JSON object")
    return document


def _member(item: dict[str, Any], name: str, wanted: type, place: str) -> Any:
    value = item.get(name)
    if value is None:
        raise InvalidInput(f'{place} has no "{name}"; expected {TYPE_NAMES[wanted]}')
    if type(value) is not wanted:
        raise InvalidInput(f'{place} has {quoted(value)} as "{name}"; expected {TYPE_NAMES[wanted]}')
    return value


def _optional_text(item: dict[str, Any], name: str, place: str) -> str:
    return "" if item.get(name) is None else str(_member(item, name, str, place))


def _objects(item: dict[str, Any], name: str, place: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = _member(item, name, list, place)
    for number, entry in enumerate(entries):
        if type(entry) is not dict:
            raise InvalidInput(f'{place} has {quoted(entry)} as entry {number} of "{name}"; expected an object')
    return entries


def _name(item: dict[str, Any], place: str) -> str:
    name = str(_member(item, "name", str, place))
    if not name:
        raise InvalidInput(f'{place} has an empty "name"')
    return name


def _refuse_repeated(items: Any, what: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise InvalidInput(f'{what} "{item.name}" stands twice in the request; names must differ')
        seen.add(item.name)


def _read_parameters(item: dict[str, Any], parameters: Any, place: str) -> None:
    if item.get("parameters") is None:
        return
    for name, value in _member(item, "parameters", dict, place).items():
        if value is None:
            continue
        if isinstance(value, (list, dict)):
            expected = "a string, a number or a boolean"
            raise InvalidInput(f'{place} has {quoted(value)} as parameter "{name}"; expected {expected}')
        setattr(parameters[name], _choice(value), value)


def _choice(value: object) -> str:
    """The member of `InferParameter` that holds a value of JSON."""
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param" if value <= _MAX_INT64 else "uint64_param"
    return "double_param" if isinstance(value, float) else "string_param"


# Reading: tensors.


def _read_tensor(
    item: dict[str, Any],
    place: str,
    message: Any,
    kind: Kind,
    as_text: Callable[[object, Sequence[Any]], bool],
    binary: _Binary,
) -> None:
    name = _name(item, place)
    place = f'tensor "{name}"'
    datatype = tensors.datatype(_member(item, "datatype", str, place), name)
    shape = _shape(item, name)
    tensor = getattr(message, kind.tensors).add(name=name, datatype=datatype.name, shape=shape)
    _read_parameters(item, tensor.parameters, place)
    size = _taken_out(tensor.parameters, _BINARY_SIZE)
    if size is not None:
        if item.get("data") is not None:
            raise InvalidInput(f'{place} has "data" and the parameter "{_BINARY_SIZE}"; one of them says where it is')
        raw = binary.take(size, name)
        tensors.check_raw(raw, datatype, shape, name)
        getattr(message, kind.raw).append(raw)
        return
    data = item["data"] if isinstance(item.get("data"), np.ndarray) else _member(item, "data", list, place)
    found = elements.flatten(data, name)
    count = tensors.element_count(shape, name)
    if len(found.flat) != count:
        raise InvalidInput(f"{place} has {len(found.flat)} elements in data; {datatype.name} {shape} takes {count}")
    text = datatype.dtype is not None or as_text(_content_type(tensor), found.flat)
    getattr(message, kind.raw).append(elements.raw_of(found, datatype, name, text=text))


def _content_type(tensor: Any) -> str:
    # Asking a protobuf map for what it lacks would put it there.
    present = _CONTENT_TYPE in tensor.parameters
    return str(tensor.parameters[_CONTENT_TYPE].string_param) if present else ""


def _shape(item: dict[str, Any], tensor: str) -> list[int]:
    shape: list[int] = _member(item, "shape", list, f'tensor "{tensor}"')
    for size in shape:
        if type(size) is not int or size < 0:
            found = quoted(size)
            raise InvalidInput(f'tensor "{tensor}" has the dimension {found}; expected a whole number from 0')
    tensors.element_count(shape, tensor)
    return shape


# Writing.


def _contents(message: Any, kind: Kind) -> Iterator[tuple[Any, bytes]]:
    """The tensors of a message with their raw contents, checked."""
    items, raws = getattr(message, kind.tensors), getattr(message, kind.raw)
    check_raw_count(len(items), len(raws), kind)
    for number, item in enumerate(items):
        datatype = tensors.datatype(item.datatype, item.name)
        if raws:
            tensors.check_raw(raws[number], datatype, item.shape, item.name)
            yield item, raws[number]
        else:
            yield item, tensors.typed_to_raw(item.contents, datatype, item.shape, item.name)


def _tensor(item: Any, raw: bytes, written: Callable[[list[bytes], dict[str, Any]], list[str]]) -> dict[str, Any]:
    datatype = tensors.DATATYPES[item.datatype]
    parameters = _parameters(item.parameters)
    if datatype.dtype is None:
        data: Any = written(tensors.split_bytes(raw), parameters)
    else:
        data = tensors.array_of(raw, datatype, (-1,))
    document = {"name": item.name, "shape": item.shape[:], "datatype": item.datatype, "data": data}
    return {**document, "parameters": parameters} if parameters else document


def _described_binary(item: Any, raw: bytes) -> dict[str, Any]:
    parameters = {**_parameters(item.parameters), _BINARY_SIZE: len(raw)}
    return {"name": item.name, "shape": item.shape[:], "datatype": item.datatype, "parameters": parameters}


def _bytes_in_request(elements: list[bytes], parameters: dict[str, Any]) -> list[str]:
    return _text(elements, parameters) if _text_in_request(parameters.get(_CONTENT_TYPE)) else _base64_of(elements)


def _bytes_in_response(elements: list[bytes], parameters: dict[str, Any]) -> list[str]:
    content_type = parameters.get(_CONTENT_TYPE)
    if _text_in_response(content_type):
        return _text(elements, parameters)
    if content_type == BASE64 and _are_base64(elements):
        return [element.decode() for element in elements]
    return _base64_of(elements)


def _text(elements: list[bytes], parameters: dict[str, Any]) -> list[str]:
    """The elements as text; when they are none as base64, which the parameters then say."""
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        parameters[_CONTENT_TYPE] = BASE64
    return _base64_of(elements)


def _base64_of(elements: list[bytes]) -> list[str]:
    return [base64.b64encode(element).decode() for element in elements]


def _are_base64(elements: list[bytes]) -> bool:
    try:
        for element in elements:
            base64.b64decode(element, validate=True)
    except ValueError:
        return False
    return True


def _write_parameters(message: Any, document: dict[str, Any]) -> None:
    if parameters := _parameters(message.parameters):
        document["parameters"] = parameters


def _parameters(parameters: Any) -> dict[str, Any]:
    """Parameters as JSON has them, in the order of their names: a protobuf map has none."""
    chosen = {name: parameters[name].WhichOneof("parameter_choice") for name in sorted(parameters)}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


def _requested(output: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"name": output.name}
    _write_parameters(output, document)
    return document
