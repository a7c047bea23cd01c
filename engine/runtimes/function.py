"""A loaded model as a function of arrays: what it is asked for rows of columns, and what its answers are as columns."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from engine.errors import ModelFailed, RequestError
from engine.protocol import tensors
from engine.protocol.columns import Cells, Columns, TensorSpec, encode_parameters
from engine.protocol.messages import InferParameter
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

# What text says of itself, so that it is text and no base64 in JSON.
_TEXT = encode_parameters({"content_type": InferParameter(string_param="str")})

Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = "Mapping[str, Array]"


@dataclass(frozen=True, slots=True)
class Function:
    """A loaded model: read-only arrays by tensor name in, (name, array) pairs out.

    call      may give back an array that it fills again for its next answer; raises InvalidInput when it refuses the
              request; whatever else it raises is the model's failure
    inputs    the names that the tensors must have; None when any will do
    optional  names that the tensors may have besides
    platform  what the model's metadata calls it
    close     frees what the model holds, once no call is out
    takes     what the model says of its inputs, where it says more than names; -1 is a dimension of any length
    gives     the same of its outputs
    native    the library's own object, for explainers that read it
    """

    call: Callable[[Arrays], Sequence[tuple[str, Array]]]
    inputs: tuple[str, ...] | None
    platform: str
    close: Callable[[], None] | None = None
    optional: tuple[str, ...] = ()
    takes: tuple[TensorSpec, ...] = ()
    gives: tuple[TensorSpec, ...] = ()
    native: Any = None


class Slice(NamedTuple):
    """Some successive rows of a call."""

    columns: Columns
    rows: range

    @property
    def length(self) -> int:
        """How many rows of a stack these are: each counts as many as its first dimension says."""
        return len(self.rows) * self.columns.specs[0].shape[0]


class Result(NamedTuple):
    """What a call of the model gave for rows: specs with cells of shape (rows, ...), or an error."""

    rows: Sequence[int]
    outcome: tuple[tuple[TensorSpec, ...], tuple[Cells, ...]] | RequestError


def answer_row(function: Function, columns: Columns, row: int) -> Result:
    """One call for one row."""
    alone = Slice(columns, range(row, row + 1))
    try:
        arrays = {name: columns.array(index, row) for index, name in enumerate(columns.names)}
        given = [(name, array[np.newaxis]) for name, array in _call(function, arrays)]
        return _result(alone, given)
    except Exception as error:  # noqa: BLE001  whatever goes wrong is this row's error
        return Result(alone.rows, _failure(error))


def answer_stack(function: Function, slices: Sequence[Slice]) -> list[list[Result]]:
    """One call for the rows of all slices, stacked along the first dimension; for each slice its results.

    When it fails, each row is a call of its own, so that one bad request fails alone. The slices agree in names,
    datatypes and the dimensions after the first, and all tensors of a slice in the first.
    """
    if sum(len(each.rows) for each in slices) > 1:
        with suppress(Exception):
            # What was wrong, if it was, shows again in the calls alone.
            return [[result] for result in _answer_stacked(function, slices)]
    return [[answer_row(function, each.columns, row) for row in each.rows] for each in slices]


def _answer_stacked(function: Function, slices: Sequence[Slice]) -> list[Result]:
    arrays = {name: _stacked(slices, index) for index, name in enumerate(slices[0].columns.names)}
    given = [(name, _shared_out(name, array, slices)) for name, array in _call(function, arrays)]
    return [_result(each, [(name, shares[place]) for name, shares in given]) for place, each in enumerate(slices)]


def _result(each: Slice, given: Sequence[tuple[str, Array]]) -> Result:
    """Outputs, each of shape (rows, ...), as specs and cells."""
    shares = [_cells(name, array) for name, array in given]
    return Result(each.rows, (tuple(spec for spec, _ in shares), tuple(cells for _, cells in shares)))


def _failure(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    log.error("the answer of a model could not be read", exc_info=error)
    return ModelFailed(f"its answer cannot be read: {type(error).__name__}: {error}")


def _call(function: Function, arrays: Arrays) -> Sequence[tuple[str, Array]]:
    """One call of the model; whatever it raises is its failure."""
    for array in arrays.values():
        # Other steps read the same memory.
        array.flags.writeable = False
    try:
        return function.call(arrays)
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        # A model that calls exit() must not end the process.
        raise ModelFailed(f"{type(error).__name__}: {error}") from error


def _stacked(slices: Sequence[Slice], index: int) -> Array:
    """The rows of a tensor along its first dimension, each having as many of it as its shape says."""
    parts = [_along_first(each, index) for each in slices]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _along_first(each: Slice, index: int) -> Array:
    columns, rows = each
    cells, spec = columns.cells[index], columns.specs[index]
    if isinstance(cells, list):
        return np.concatenate([columns.array(index, row) for row in rows])
    part = cells[rows.start : rows.stop].reshape(len(rows) * spec.shape[0], *spec.shape[1:])
    return tensors.float32_of_bf16(part) if spec.datatype == "BF16" else part


def _shared_out(name: str, array: Array, slices: Sequence[Slice]) -> list[Array]:
    """Each slice's rows of a stack's output, of shape (rows, ...)."""
    lengths = [each.length for each in slices]
    if not array.ndim or len(array) != sum(lengths):
        count = sum(len(each.rows) for each in slices)
        raise ModelFailed(
            f'output "{name}" has shape {list(array.shape)}: of {count} stacked requests with {sum(lengths)} rows '
            "each must get its own rows"
        )
    shares, start = [], 0
    for each, length in zip(slices, lengths, strict=True):
        count = len(each.rows)
        shares.append(array[start : start + length].reshape(count, length // count, *array.shape[1:]))
        start += length
    return shares


def _cells(name: str, rows: Array) -> tuple[TensorSpec, Cells]:
    try:
        datatype = tensors.datatype_of(rows)
    except TypeError as error:
        raise ModelFailed(f'output "{name}": {error}') from None
    spec = TensorSpec(name, datatype, rows.shape[1:])
    if datatype == "BYTES":
        kind = tensors.DATATYPES[datatype]
        if tensors.is_text(rows):
            spec = spec._replace(parameters=_TEXT)
        # The ellipsis keeps a row without dimensions an array.
        return spec, [tensors.raw_of(rows[row, ...], kind) for row in range(len(rows))]
    # A copy, since the model may fill the same array again for the next request.
    return spec, np.array(rows)


def together(results: Sequence[Result], columns: Columns) -> list[Part]:
    """Results of one kind as one part: the fewer parts, the fewer batches follow."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        key = id(result) if isinstance(result.outcome, RequestError) else result.outcome[0]
        groups.setdefault(key, []).append(result)
    parts = []
    for group in groups.values():
        rows = group[0].rows if len(group) == 1 else [row for result in group for row in result.rows]
        first = group[0].outcome
        if isinstance(first, RequestError):
            parts.append(Part(rows, first))
            continue
        cells = tuple(
            _joined([result.outcome[1][index] for result in group if not isinstance(result.outcome, RequestError)])
            for index in range(len(first[0]))
        )
        ids = [columns.ids[row] for row in rows]
        parts.append(Part(rows, Columns(ids, first[0], cells, columns.parameters)))
    return parts


def _joined(pieces: list[Cells]) -> Cells:
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], list):
        return [raw for piece in pieces for raw in piece]
    return np.concatenate(pieces)
