"""What a record holds, for people: a V2 message with typed contents, its tensors at a glance, or text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from engine.errors import InvalidInput
from engine.protocol import columns, rest_json
from engine.protocol.messages import DecodeError
from engine.protocol.record import ERROR_STEP, INFER_TYPE, Side, header
from engine.protocol.tensors import DATATYPES

if TYPE_CHECKING:
    from engine.inspect.expression import Source
    from engine.protocol.columns import Kind
    from engine.protocol.record import Record


def readable(record: Record, source: Source) -> Any:
    """A record's value for people: a V2 message as protobuf's JSON with typed contents, anything else as text."""
    message = message_of(record, source.side)
    if message is None:
        return text_of(record)
    if source.tensor is not None:
        tensors = tensors_of(message)
        kept = [tensor for tensor in tensors if tensor.name == source.tensor]
        del tensors[:]
        tensors.extend(kept)
    return json_format.MessageToDict(message)


def text_of(record: Record) -> str:
    """A record's value as text, whatever it is."""
    return (record.value or b"").decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Glance:
    """What one sees of a tensor at a glance: `values` are the first of its `count` elements."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: tuple[Any, ...]
    count: int


def glances(record: Record, source: Source, most: int) -> tuple[Glance, ...] | None:
    """The tensors of a record's message with the first values of each, `most` at most; None when it holds none."""
    message = message_of(record, source.side)
    if message is None:
        return None
    return tuple(_glance(item, most) for item in tensors_of(message) if source.tensor in (None, item.name))


def _glance(tensor: Any, most: int) -> Glance:
    kind = DATATYPES.get(tensor.datatype)
    elements = getattr(tensor.contents, kind.contents) if kind else ()
    return Glance(tensor.name, tensor.datatype, tuple(tensor.shape), tuple(elements[:most]), len(elements))


def tensors_of(message: Any) -> Any:
    """The tensors of a request or a response; none of None."""
    if message is None:
        return []
    return message.inputs if isinstance(message, columns.REQUEST.message) else message.outputs


def message_of(record: Record, side: Side | None, *, typed: bool = True) -> Any:
    """The V2 message that a record holds, with typed contents; None when it holds none.

    Not `typed`: with its contents as they came, for who looks at a few elements of what may be many millions.
    """
    if side is None or not record.value or header(record.headers, ERROR_STEP) is not None:
        return None
    infer_type = (header(record.headers, INFER_TYPE) or "").lower()
    kinds = [columns.REQUEST, columns.RESPONSE] if side is Side.INPUTS else [columns.RESPONSE, columns.REQUEST]
    if infer_type.endswith("request"):
        kinds = [columns.REQUEST]
    if infer_type.endswith("response"):
        kinds = [columns.RESPONSE]
    # No V2 message begins as JSON does: it would be its field 15.
    decode = _from_json if record.value.lstrip()[:1] == b"{" else _from_protobuf
    for kind in kinds:
        try:
            message = decode(record.value, kind)
            columns.check_raw_count(len(tensors_of(message)), len(getattr(message, kind.raw)), kind)
            if typed:
                columns.to_typed(message, kind)
        except (InvalidInput, DecodeError, ValueError):
            continue
        return message
    return None


def _from_protobuf(value: bytes, kind: Kind) -> Any:
    return kind.message.FromString(value)


def _from_json(value: bytes, kind: Kind) -> Any:
    return (rest_json.decode_request if kind is columns.REQUEST else rest_json.decode_response)(value)
