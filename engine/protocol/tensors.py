"""Tensors of the V2 protocol: the table of datatypes, and one tensor's contents between typed, raw and numpy.

Raw contents are little endian and row major without padding; each BYTES element is preceded by its length in
four bytes (Open Inference Protocol, "Raw Tensor Contents"). Typed contents stand in the one field of
`InferTensorContents` that fits the datatype.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

# More elements than memory could hold; a shape beyond it is a slip or an attack, refused before anything is
# allocated.
MAX_ELEMENTS = 1 << 40

# numpy before 2.0 stops at 32 dimensions, and columns put the rows of a batch before a tensor's own.
MAX_DIMENSIONS = 31


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the protocol.

    `dtype` is how its elements lie in raw contents; None for BYTES, whose elements have a length each.
    BF16, which numpy lacks, lies as the 16 bits of its elements (`float32_of_bf16` gives the values).
    """

    name: str
    dtype: np.dtype[Any] | None
    contents: str


DATATYPES = {
    name: Datatype(name, np.dtype(code) if code else None, contents)
    for name, code, contents in (
        ("BOOL", "?", "bool_contents"),
        ("INT8", "<i1", "int_contents"),
        ("INT16", "<i2", "int_contents"),
        ("INT32", "<i4", "int_contents"),
        ("INT64", "<i8", "int64_contents"),
        ("UINT8", "<u1", "uint_contents"),
        ("UINT16", "<u2", "uint_contents"),
        ("UINT32", "<u4", "uint_contents"),
        ("UINT64", "<u8", "uint64_contents"),
        ("FP16", "<f2", "fp32_contents"),
        ("BF16", "<u2", "fp32_contents"),
        ("FP32", "<f4", "fp32_contents"),
        ("FP64", "<f8", "fp64_contents"),
        ("BYTES", None, "bytes_contents"),
    )
}

_OF_KIND = {
    ("b", 1): "BOOL",
    ("i", 1): "INT8",
    ("i", 2): "INT16",
    ("i", 4): "INT32",
    ("i", 8): "INT64",
    ("u", 1): "UINT8",
    ("u", 2): "UINT16",
    ("u", 4): "UINT32",
    ("u", 8): "UINT64",
    ("f", 2): "FP16",
    ("f", 4): "FP32",
    ("f", 8): "FP64",
}


def datatype(name: str, tensor: str) -> Datatype:
    """The datatype of that name; InvalidInput names the tensor when there is none."""
    try:
        return DATATYPES[name]
    except KeyError:
        known = ", ".join(DATATYPES)
        raise InvalidInput(f'tensor "{tensor}" has unknown datatype "{name}"; known are {known}') from None


def datatype_of(array: NDArray[Any]) -> str:
    """The datatype's name for a numpy array, BYTES for text and objects; TypeError when it has none."""
    if array.dtype.kind in "SUO":
        return "BYTES"
    try:
        return _OF_KIND[array.dtype.kind, array.dtype.itemsize]
    except KeyError:
        raise TypeError(f"an array of {array.dtype} has no datatype in the V2 protocol") from None


def element_count(shape: Sequence[int], tensor: str) -> int:
    """How many elements a shape holds; InvalidInput for negative dimensions, too many and absurd products."""
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidInput(f'tensor "{tensor}" has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are possible')
    for size in shape:
        if size < 0:
            raise InvalidInput(f'tensor "{tensor}" has shape {list(shape)}: a dimension cannot be {size}')
    # A zero makes the count nothing, and yet numpy multiplies the other dimensions and refuses an overflow.
    extent = math.prod(size or 1 for size in shape)
    if extent > MAX_ELEMENTS:
        raise InvalidInput(f'tensor "{tensor}" has shape {list(shape)}: {extent} elements are too many')
    return 0 if 0 in shape else extent


def check_raw(raw: bytes, kind: Datatype, shape: Sequence[int], tensor: str) -> None:
    """InvalidInput unless the raw contents are as long as datatype and shape say."""
    count = element_count(shape, tensor)
    if kind.dtype is None:
        _check_raw_bytes(raw, count, tensor)
    elif len(raw) != count * kind.dtype.itemsize:
        raise InvalidInput(
            f'tensor "{tensor}" has {len(raw)} bytes of raw contents; '
            f"{kind.name} {list(shape)} takes {count * kind.dtype.itemsize}"
        )


def _check_raw_bytes(raw: bytes, count: int, tensor: str) -> None:
    position, found = 0, 0
    while position < len(raw):
        end = position + 4
        if end > len(raw) or (end := end + int.from_bytes(raw[position:end], "little")) > len(raw):
            raise InvalidInput(f'tensor "{tensor}" has raw BYTES contents that end inside element {found}')
        position, found = end, found + 1
    if found != count:
        raise InvalidInput(f'tensor "{tensor}" has {found} BYTES elements; its shape holds {count}')


def join_bytes(elements: Iterable[bytes]) -> bytes:
    """BYTES elements as raw contents."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def split_bytes(raw: bytes) -> list[bytes]:
    """The elements of raw BYTES contents that `check_raw` let pass."""
    elements, position, view = [], 0, memoryview(raw)
    while position < len(raw):
        start = position + 4
        position = start + int.from_bytes(view[position:start], "little")
        elements.append(bytes(view[start:position]))
    return elements


def array_of(raw: bytes, kind: Datatype, shape: Sequence[int]) -> NDArray[Any]:
    """Checked raw contents as a read-only array; BYTES as an object array of `bytes`, BF16 as float32."""
    if kind.dtype is None:
        array = np.empty(math.prod(shape), dtype=object)
        array[:] = split_bytes(raw)
        return array.reshape(shape)
    array = np.frombuffer(raw, kind.dtype).reshape(shape)
    return float32_of_bf16(array) if kind.name == "BF16" else array


def raw_of(array: NDArray[Any], kind: Datatype) -> bytes:
    """An array as raw contents of a datatype; text becomes UTF-8, numbers are cast as numpy casts."""
    if kind.dtype is None:
        return join_bytes(element_bytes(element) for element in array.reshape(-1).tolist())
    if kind.name == "BF16":
        array = bf16_of_float32(array)
    return np.ascontiguousarray(array, dtype=kind.dtype).tobytes()


def element_bytes(element: object) -> bytes:
    """One element of a BYTES tensor, given as bytes or as text."""
    if isinstance(element, bytes):
        return element
    return str(element).encode()


def is_text(array: NDArray[Any]) -> bool:
    """Whether an array for a BYTES tensor holds text throughout, and not bytes."""
    if array.dtype.kind == "O":
        return set(map(type, array.reshape(-1).tolist())) == {str}
    return array.dtype.kind == "U"


def float32_of_bf16(bits: NDArray[Any]) -> NDArray[Any]:
    """The values of BF16 elements given by their 16 bits."""
    # A shift of an array without dimensions is a scalar, and would stay one.
    return np.asarray((bits.astype(np.uint32) << 16).view(np.float32))


def bf16_of_float32(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The 16 bits of the nearest BF16 values, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def typed_to_raw(contents: Any, kind: Datatype, shape: Sequence[int], tensor: str) -> bytes:
    """An `InferTensorContents` as raw contents.

    InvalidInput when its elements do not fill the shape, or stand in more fields than the datatype's.
    """
    elements = getattr(contents, kind.contents)
    count = element_count(shape, tensor)
    others = [field.name for field, _ in contents.ListFields() if field.name != kind.contents]
    if others and len(elements) == count:
        raise InvalidInput(
            f'tensor "{tensor}" has elements in {others[0]}; {kind.name} takes those in {kind.contents}, and no others'
        )
    if len(elements) != count:
        raise InvalidInput(
            f'tensor "{tensor}" has {len(elements)} elements in {kind.contents}; '
            f"{kind.name} {list(shape)} takes {count}"
        )
    if kind.dtype is None:
        return join_bytes(elements)
    return raw_of(in_range(elements, kind, tensor), kind)


def in_range(elements: Any, kind: Datatype, tensor: str) -> NDArray[Any]:
    """Numbers as an array of `kind`, BF16 as float32; InvalidInput names the first that it cannot hold."""
    if kind.name in _NARROW:
        return _narrowed(np.array(elements, dtype=np.int64), kind, tensor)
    if kind.name not in _ROUNDED:
        return np.array(elements, dtype=kind.dtype)
    with np.errstate(over="ignore"):
        rounded: NDArray[Any] = np.array(elements, dtype=_ROUNDED[kind.name])
    held = float32_of_bf16(bf16_of_float32(rounded)) if kind.name == "BF16" else rounded
    infinite = np.isinf(held)
    if infinite.any():
        wide = np.array(elements, dtype=np.float64)
        _refuse_any(infinite & ~np.isinf(wide), wide, kind, tensor)
    return rounded


# Typed contents and JSON give these datatypes in wider integers.
_NARROW = {
    "INT8": (-128, 127),
    "INT16": (-(1 << 15), (1 << 15) - 1),
    "UINT8": (0, 255),
    "UINT16": (0, (1 << 16) - 1),
}

# And these in wider floating point: what is finite there and infinite here would not come back.
_ROUNDED: dict[str, np.dtype[Any]] = {
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<f4"),
    "FP32": np.dtype("<f4"),
}


def _narrowed(wide: NDArray[Any], kind: Datatype, tensor: str) -> NDArray[Any]:
    low, high = _NARROW[kind.name]
    if wide.size and (wide.min() < low or wide.max() > high):
        _refuse_any((wide < low) | (wide > high), wide, kind, tensor)
    return wide.astype(kind.dtype)


def _refuse_any(wrong: NDArray[Any], values: NDArray[Any], kind: Datatype, tensor: str) -> None:
    for value in values[wrong][:1].tolist():
        raise InvalidInput(f'tensor "{tensor}" is {kind.name} and cannot hold {value}')


def raw_to_typed(raw: bytes, kind: Datatype, contents: Any) -> None:
    """Put checked raw contents into an `InferTensorContents`."""
    field = getattr(contents, kind.contents)
    if kind.dtype is None:
        field.extend(split_bytes(raw))
    else:
        field.extend(array_of(raw, kind, (-1,)).tolist())
