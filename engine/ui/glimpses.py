"""What one sees of a message's tensors: the first elements of each and how a sample is spread, never all of it."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from engine.inspect import tensors_of
from engine.protocol import columns
from engine.protocol.tensors import DATATYPES, float32_of_bf16

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.protocol.tensors import Datatype

Data: TypeAlias = "dict[str, Any]"

FIRST = 16
BINS = 16

# So many elements of a tensor are counted in its histogram, at even distances.
SAMPLE = 4096

# So many characters are shown of an element, and so many tensors of a message.
LONGEST = 200
MOST_TENSORS = 100

# JavaScript's numbers are exact up to it.
_EXACT = 1 << 53


def glimpses(message: Any) -> list[Data]:
    """The tensors of a request or a response, as far as they are shown."""
    kind = columns.REQUEST if isinstance(message, columns.REQUEST.message) else columns.RESPONSE
    raws = getattr(message, kind.raw)
    items = tensors_of(message)[:MOST_TENSORS]
    return [_glimpse(item, raws[number] if len(raws) else None) for number, item in enumerate(items)]


def _glimpse(item: Any, raw: bytes | None) -> Data:
    kind = DATATYPES.get(item.datatype)
    told = {"name": item.name, "datatype": item.datatype, "shape": item.shape[:]}
    if kind is None:
        return {**told, "count": 0, "first": [], "cut": False, "histogram": None}
    if kind.dtype is None:
        count, elements = _texts(item, raw)
        first, encoding, shortened = _shown_texts(elements)
        found = {**told, "count": count, "first": first, "cut": shortened or count > len(first), "histogram": None}
        return {**found, "encoding": encoding} if encoding else found
    count, numbers, sample = _numbers(item, raw, kind)
    first = [_shown(number) for number in numbers]
    return {**told, "count": count, "first": first, "cut": count > len(first), "histogram": _histogram(sample, count)}


def _texts(item: Any, raw: bytes | None) -> tuple[int, list[bytes]]:
    """How many BYTES elements there are, and the first of them."""
    if raw is None:
        return len(item.contents.bytes_contents), item.contents.bytes_contents[:FIRST]
    elements: list[bytes] = []
    position = 0
    while position + 4 <= len(raw) and len(elements) < FIRST:
        size = int.from_bytes(raw[position : position + 4], "little")
        # Four bytes more than are shown, for a letter that is cut in two.
        elements.append(raw[position + 4 : position + 4 + min(size, LONGEST * 4 + 4)])
        position += 4 + size
    return math.prod(item.shape), elements


def _shown_texts(elements: Sequence[bytes]) -> tuple[list[str], str, bool]:
    """The elements as text, or all of them as base64; how they are encoded; and whether any was cut."""
    try:
        texts, encoding = [_text(element) for element in elements], ""
    except UnicodeDecodeError:
        texts, encoding = [base64.b64encode(element[:LONGEST]).decode() for element in elements], "base64"
    return [text[:LONGEST] for text in texts], encoding, any(len(text) > LONGEST for text in texts)


def _text(element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        if len(element) > LONGEST * 4 and error.start >= LONGEST * 4:
            return element[: error.start].decode()
        raise


def _numbers(item: Any, raw: bytes | None, kind: Datatype) -> tuple[int, list[Any], NDArray[Any]]:
    """How many elements there are, the first of them, and some at even distances."""
    if raw is None:
        elements = getattr(item.contents, kind.contents)
        count = len(elements)
        return count, list(elements[:FIRST]), np.array(elements[:: _stride(count)], dtype=np.float64)
    assert kind.dtype is not None
    # Of contents that do not fill their shape, those that are there.
    array = np.frombuffer(raw, kind.dtype, count=len(raw) // kind.dtype.itemsize)
    first, sample = array[:FIRST], array[:: _stride(array.size)]
    if kind.name == "BF16":
        first, sample = float32_of_bf16(first), float32_of_bf16(sample)
    return array.size, first.tolist(), sample.astype(np.float64)


def _stride(count: int) -> int:
    return max(1, math.ceil(count / SAMPLE))


def _shown(number: Any) -> Any:
    """A number as JSON and JavaScript can say it; text where they cannot."""
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return str(number) if not isinstance(number, float) and abs(number) > _EXACT else number


def _histogram(sample: NDArray[Any], count: int) -> Data | None:
    """How a sample is spread between its least and its greatest element; None of fewer than two numbers."""
    finite = sample[np.isfinite(sample)]
    if finite.size < 2:  # noqa: PLR2004  one element is shown as it is
        return None
    low, high = float(finite.min()), float(finite.max())
    # Halves, as the distance of the greatest numbers is none.
    width = high / 2 - low / 2
    places = np.zeros(finite.size) if width == 0 else (finite / 2 - low / 2) / width * BINS
    counts = np.bincount(places.astype(np.int64).clip(0, BINS - 1), minlength=BINS)
    told = {"low": low, "high": high, "counts": counts.tolist(), "of": int(finite.size)}
    return {**told, "sampled": True} if sample.size < count else told
