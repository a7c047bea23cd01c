"""Large JSON bodies: the numbers of their tensors without a Python object for each.

simdjson keeps a document outside Python and gives an array of numbers as a buffer, where orjson makes a list of
objects. What simdjson does not read, or reads as something else, is left to orjson, so that a body has one meaning
and one set of errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import simdjson

from engine.protocol import tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# From this size on simdjson is well ahead, in bytes.
LARGE = 16 << 10

# It counts no more than 16,777,215 elements of an array, which take at least twice as many bytes.
_TOO_LARGE = 32 << 20

# Keeps what memory the largest body so far took, which comes from the system anew else: half of the time.
_PARSER = simdjson.Parser()

# Bodies from here on get a parser of their own, lest that be much for ever.
_MOST_KEPT = 4 << 20

# Each array inside of `data` is looked at in Python; with fewer numbers in each than this, lists cost no more.
_NUMBERS_PER_ARRAY = 8

_Buffer = tuple[Literal["d", "i", "u"], type]
_FLOATS: _Buffer = ("d", np.float64)
_SIGNED: _Buffer = ("i", np.int64)
_UNSIGNED: _Buffer = ("u", np.uint64)

# The buffer that takes a tensor's elements, by the field that typed contents have for them.
_BUFFERS = {
    "fp32_contents": _FLOATS,
    "fp64_contents": _FLOATS,
    "int_contents": _SIGNED,
    "int64_contents": _SIGNED,
    "uint_contents": _UNSIGNED,
    "uint64_contents": _UNSIGNED,
}


class _Otherwise(Exception):
    """The body is to be read by orjson."""


def document(body: bytes, member: str) -> dict[str, Any] | None:
    """A JSON object as orjson gives it, but with the `data` of each tensor as a flat array; None to ask orjson.

    member  the list of the tensors: `inputs`, `outputs`

    The arrays are of float64, int64 or uint64. Bodies with BYTES, BOOL, null among numbers, ragged data or anything
    that is refused anyway are none for this.
    """
    # Texts become objects anyway; this is seen sooner than by reading.
    if not LARGE <= len(body) < _TOO_LARGE or b'"BYTES"' in body:
        return None
    try:
        parser = _PARSER if len(body) < _MOST_KEPT else simdjson.Parser()
        return _read(parser.parse(body), member, body)
    # No JSON, not UTF-8, too deep, a number of more than 64 bits; TypeError: something else among the numbers;
    # RuntimeError: another thread is at it with the parser.
    except (_Otherwise, RuntimeError, TypeError, ValueError):
        return None


def _read(found: object, member: str, body: bytes) -> dict[str, Any]:
    """The document; the arrays that were met must be all there are, by the brackets in the body.

    Else a nested one is among what was taken for numbers, and simdjson has flattened it without a word.
    """
    members = _members(found)
    items = members.pop(member, None)
    if not isinstance(items, simdjson.Array):
        raise _Otherwise
    read = [_tensor(item) for item in items]
    rest = {name: _plain(value) for name, value in members.items()}
    met = _arrays(rest) + 1 + sum(arrays for _, arrays in read)
    if _brackets(body, met) != met:
        raise _Otherwise
    return {**rest, member: [tensor for tensor, _ in read]}


def _brackets(body: bytes, most: int) -> int:
    """How many arrays begin in a body, or in its texts; counted to one more than `most`."""
    count, at = 0, body.find(b"[")
    # Where they are rare this takes a tenth of what bytes.count does.
    while at >= 0 and count <= most:
        count, at = count + 1, body.find(b"[", at + 1)
    return count


def _members(found: object) -> dict[str, Any]:
    if not isinstance(found, simdjson.Object):
        raise _Otherwise
    names = list(found)
    # Of two members with one name simdjson finds the first, and it reads a name up to its first zero.
    if len(set(names)) < len(names) or any("\0" in name for name in names):
        raise _Otherwise
    return {name: found[name] for name in names}


def _tensor(item: object) -> tuple[dict[str, Any], int]:
    """An entry of the list of tensors, and how many arrays it consists of."""
    members = _members(item)
    data = members.pop("data", None)
    entry = {name: _plain(value) for name, value in members.items()}
    datatype = tensors.DATATYPES.get(str(entry.get("datatype")))
    if datatype is None or datatype.contents not in _BUFFERS or not isinstance(data, simdjson.Array):
        raise _Otherwise
    of_type, dtype = _BUFFERS[datatype.contents]
    numbers: NDArray[Any] = np.frombuffer(data.as_buffer(of_type=of_type), dtype)
    return {**entry, "data": numbers}, _arrays(entry) + _nested(data, len(numbers))


def _nested(data: simdjson.Array, numbers: int) -> int:
    """How many arrays the nested arrays of `data` are, itself included, down to those that begin with a number."""
    level, count = [data], 1
    while level and isinstance(next(iter(level[0]), None), simdjson.Array):
        count += sum(len(array) for array in level)
        if count * _NUMBERS_PER_ARRAY > numbers:
            raise _Otherwise
        inner = [item for array in level for item in array]
        level = [item for item in inner if isinstance(item, simdjson.Array)]
        if len(level) < len(inner) or len({len(item) for item in level}) > 1:
            raise _Otherwise
    return count


def _plain(value: object) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _arrays(value: object) -> int:
    """How many arrays a value of JSON consists of."""
    if isinstance(value, dict):
        return sum(map(_arrays, value.values()))
    return 1 + sum(map(_arrays, value)) if isinstance(value, list) else 0
