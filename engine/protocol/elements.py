"""The elements of a tensor in JSON: `data`, flat or nested, as raw contents.

Elements are checked through the set of their types and numpy, one by one only when there is a fault to name: a million
numbers take about 60 ms, half of it in the JSON parser.
"""

from __future__ import annotations

import base64
from itertools import chain
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import orjson

from engine.errors import InvalidInput
from engine.protocol import tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from engine.protocol.tensors import Datatype

# How a fault speaks of a JSON value's type.
TYPE_NAMES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    NoneType: "null",
}

_NOT_FINITE = {None: np.nan, "NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}

# Whole numbers up to here are exact when JSON writes them with a point or an exponent.
_MAX_EXACT = float(1 << 53)

# How much of a wrong value an error quotes.
_QUOTED = 40


class Elements(NamedTuple):
    """The elements of a tensor, row by row, and which types are among them.

    `flat` is a list or, of numbers, a one-dimensional array.
    """

    flat: Any
    types: set[type]


def flatten(data: list[Any] | NDArray[Any], tensor: str) -> Elements:
    """Nested lists as one, row by row; InvalidInput when they are ragged. An array (`large_json`) is flat already."""
    if isinstance(data, np.ndarray):
        return Elements(data, {float if data.dtype.kind == "f" else int})
    level = data
    # Each turn copies the level below, which the parser's own bound of 1,024 levels would make costly.
    for _ in range(tensors.MAX_DIMENSIONS + 1):
        types = set(map(type, level))
        if list not in types:
            return Elements(level, types)
        if types != {list}:
            raise InvalidInput(f'tensor "{tensor}" has ragged data: elements stand beside nested arrays')
        lengths = sorted(set(map(len, level)))
        if len(lengths) > 1:
            found = f"nested arrays of {lengths[0]} and of {lengths[-1]} stand side by side"
            raise InvalidInput(f'tensor "{tensor}" has ragged data: {found}')
        level = list(chain.from_iterable(level))
    raise InvalidInput(f'tensor "{tensor}" has data nested deeper than {tensors.MAX_DIMENSIONS} arrays')


def raw_of(elements: Elements, datatype: Datatype, tensor: str, *, text: bool) -> bytes:
    """Elements as raw contents; InvalidInput names the first that is none of the datatype.

    text  those of BYTES are text, not base64
    """
    if datatype.dtype is None:
        _require(elements, {str}, "strings", datatype, tensor)
        encoded = map(str.encode, elements.flat) if text else _from_base64(elements.flat, tensor)
        return tensors.join_bytes(encoded)
    return tensors.raw_of(_numbers(elements, datatype, tensor), datatype)


def _numbers(elements: Elements, datatype: Datatype, tensor: str) -> NDArray[Any]:
    assert datatype.dtype is not None
    if datatype.dtype.kind == "b":
        _require(elements, {bool}, "true or false", datatype, tensor)
        return np.array(elements.flat, dtype=datatype.dtype)
    if datatype.contents in ("fp32_contents", "fp64_contents"):
        return _floats(elements, datatype, tensor)
    return _integers(elements, datatype, tensor)


def _floats(elements: Elements, datatype: Datatype, tensor: str) -> NDArray[Any]:
    if not elements.types <= {int, float}:
        # Only null and text may be looked up: a dict could not be, and True would be found as 1.
        flat = [_NOT_FINITE.get(e, e) if isinstance(e, (NoneType, str)) else e for e in elements.flat]
        elements = Elements(flat, set(map(type, flat)))
        expected = 'numbers, null, "NaN", "Infinity" or "-Infinity"'
        _require(elements, {int, float}, expected, datatype, tensor)
    return tensors.in_range(_array(elements.flat, np.float64), datatype, tensor)


def _integers(elements: Elements, datatype: Datatype, tensor: str) -> NDArray[Any]:
    if not elements.types <= {int}:
        flat = [int(e) if _is_whole(e) else e for e in elements.flat]
        elements = Elements(flat, set(map(type, flat)))
        _require(elements, {int}, "whole numbers of at most 64 bits", datatype, tensor)
    assert datatype.dtype is not None
    limits = np.iinfo(datatype.dtype)
    widest = np.uint64 if datatype.name == "UINT64" else np.int64
    try:
        found = _array(elements.flat, widest)
    except OverflowError:
        _refuse_outside(elements.flat, limits, datatype, tensor)
    if found.size and (found.min() < limits.min or found.max() > limits.max):
        _refuse_outside(elements.flat, limits, datatype, tensor)
    return found.astype(datatype.dtype, copy=False)


def _array(flat: Sequence[Any], dtype: type) -> NDArray[Any]:
    return flat if isinstance(flat, np.ndarray) else np.fromiter(flat, dtype, len(flat))


def _refuse_outside(flat: Sequence[int], limits: np.iinfo[Any], datatype: Datatype, tensor: str) -> NoReturn:
    worst = next(e for e in flat if not limits.min <= e <= limits.max)
    raise InvalidInput(
        f'tensor "{tensor}" is {datatype.name} and cannot hold {worst}; it takes {limits.min} to {limits.max}'
    )


def _is_whole(element: object) -> bool:
    return isinstance(element, float) and element.is_integer() and abs(element) <= _MAX_EXACT


def _require(elements: Elements, allowed: Collection[type], expected: str, datatype: Datatype, tensor: str) -> None:
    if elements.types <= set(allowed):
        return
    number, found = next(pair for pair in enumerate(elements.flat) if type(pair[1]) not in allowed)
    raise InvalidInput(
        f'tensor "{tensor}" is {datatype.name} and takes {expected}; element {number} is {quoted(found)}'
    )


def _from_base64(elements: Sequence[str], tensor: str) -> list[bytes]:
    try:
        return [base64.b64decode(element, validate=True) for element in elements]
    except ValueError:
        _refuse_base64(elements, tensor)


def _refuse_base64(elements: Sequence[str], tensor: str) -> NoReturn:
    for number, element in enumerate(elements):
        try:
            base64.b64decode(element, validate=True)
        except ValueError as error:
            found = f"element {number} is {quoted(element)} ({error})"
            raise InvalidInput(f'tensor "{tensor}" is BYTES in base64; {found}') from None
    raise AssertionError(elements)


def quoted(value: object) -> str:
    """A value as an error shows it, shortened; of arrays and objects only that they are."""
    # orjson reads deeper nesting than it writes.
    if isinstance(value, (list, dict)):
        return TYPE_NAMES[type(value)]
    text = orjson.dumps(value).decode()
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"
