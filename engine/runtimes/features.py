"""Requests as rows of features, and perturbed rows as one request again: what an explainer changes and asks about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import InvalidInput, ModelFailed
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.runtimes.shapley import Array

# What the background's file may be.
SUFFIXES = (".csv", ".npy")

# From here on a mixture of no and yes is yes.
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Background:
    """Rows that features are taken from when they are left out, (rows, features), and the features' names if told."""

    rows: Array
    names: tuple[str, ...] = ()

    @staticmethod
    def read(path: Path) -> Background:
        """The rows of a .npy file, or of a .csv file whose first line may be names. Raises ValueError or OSError."""
        is_csv = path.suffix == ".csv"
        names, rows = _read_csv(path) if is_csv else ((), np.load(path, allow_pickle=False))
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "biuf":  # noqa: PLR2004  rows and features
            raise ValueError(f"it holds {rows.dtype} of shape {list(rows.shape)}; rows of numbers are wanted")
        if names and len(names) != rows.shape[1]:
            raise ValueError(f"it names {len(names)} features and has {rows.shape[1]}")
        return Background(rows.astype(np.float64), names)


@dataclass(frozen=True, slots=True)
class Table:
    """Numeric tensors of one request as rows of features: each tensor has rows as its first dimension.

    rows    (rows, features) as 64-bit floating point, the tensors' features one after the other
    names   of the features
    specs   the tensors that they came from
    """

    rows: Array
    names: tuple[str, ...]
    specs: tuple[TensorSpec, ...]

    @staticmethod
    def of(columns: Columns, names: tuple[str, ...] = ()) -> Table:
        """The first request of the columns. Raises InvalidInput for tensors that are no rows of numbers."""
        lengths = {spec.shape[:1] for spec in columns.specs}
        if any(spec.datatype == "BYTES" for spec in columns.specs):
            raise InvalidInput("rows of numbers are explained, or one tensor of text and no other")
        if len(lengths) != 1 or not lengths.isdisjoint({(), (0,)}):
            shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in columns.specs) or "no tensors"
            raise InvalidInput(f"tensors whose first dimension counts the same rows are explained, not {shapes}")
        [[length]] = lengths
        arrays = [
            columns.array(index, 0).reshape(length, math.prod(spec.shape[1:]))
            for index, spec in enumerate(columns.specs)
        ]
        rows = np.concatenate(arrays, axis=1, dtype=np.float64)
        told = tuple(
            spec.name if array.shape[1] == 1 else f"{spec.name}[{place}]"
            for spec, array in zip(columns.specs, arrays, strict=True)
            for place in range(array.shape[1])
        )
        if not told:
            raise InvalidInput("the rows have no features that could be explained")
        return Table(rows, names if len(names) == len(told) else told, columns.specs)

    def request(self, rows: Array) -> Columns:
        """Rows like these as one request."""
        specs, cells, start = [], [], 0
        for spec in self.specs:
            shape = (len(rows), *spec.shape[1:])
            width = math.prod(spec.shape[1:])
            specs.append(spec._replace(shape=shape))
            cells.append(_cast(rows[:, start : start + width], spec.datatype).reshape(1, *shape))
            start += width
        return Columns([b""], tuple(specs), tuple(cells))


@dataclass(frozen=True, slots=True)
class Texts:
    """The one tensor of text of a request."""

    written: tuple[str, ...]
    spec: TensorSpec

    @staticmethod
    def of(columns: Columns) -> Texts | None:
        """The texts of the first request of the columns; None when it is not one tensor of BYTES.

        Raises InvalidInput for text that is not UTF-8, and for a tensor of another shape than [n] or [n,1].
        """
        if len(columns.specs) != 1 or columns.specs[0].datatype != "BYTES":
            return None
        [spec] = columns.specs
        if not spec.shape or spec.shape[1:] not in ((), (1,)) or not spec.shape[0]:
            raise InvalidInput(f'tensor "{spec.name}" has shape {list(spec.shape)}; text is explained as [n] or [n,1]')
        try:
            written = tuple(element.decode() for element in columns.array(0, 0).reshape(-1))
        except UnicodeDecodeError as error:
            raise InvalidInput(f'tensor "{spec.name}" is not text: {error}') from None
        return Texts(written, spec)

    def request(self, texts: Sequence[str]) -> Columns:
        """Texts like these as one request."""
        spec = self.spec._replace(shape=(len(texts), *self.spec.shape[1:]))
        return Columns([b""], (spec,), ([tensors.join_bytes(each.encode() for each in texts)],))


def answers(given: Columns, output: str | None, count: int) -> Array:
    """The numbers of an answer to `count` rows, (rows, outputs): those of one tensor, of `output` when it is named.

    Raises ModelFailed, saying what was given instead.
    """
    names = given.names
    if output is None and len(names) != 1:
        raise ModelFailed(f'it gave {_listed(names)}; say by the parameter "output" which one is explained')
    if output is not None and output not in names:
        raise ModelFailed(f'it gave {_listed(names)} and no "{output}", which the parameter "output" names')
    index = names.index(output) if output is not None else 0
    spec = given.specs[index]
    if spec.datatype == "BYTES":
        raise ModelFailed(f'its output "{spec.name}" is text; only numbers can be explained')
    if spec.shape[:1] != (count,):
        raise ModelFailed(
            f'its output "{spec.name}" has shape {list(spec.shape)}; of {count} rows in one call each must get its own'
        )
    return given.array(index, 0).reshape(count, -1).astype(np.float64)


def _cast(rows: Array, datatype: str) -> Array:
    """Features as the elements of a datatype, which the background's may lie between or beyond."""
    kind = tensors.DATATYPES[datatype]
    assert kind.dtype is not None
    if kind.name == "BF16":
        return tensors.bf16_of_float32(rows)
    if kind.dtype.kind in "iu":
        bounds = np.iinfo(kind.dtype)
        return np.clip(np.rint(rows), bounds.min, bounds.max).astype(kind.dtype)
    return (rows >= _HALF if kind.dtype.kind == "b" else rows).astype(kind.dtype)


def _read_csv(path: Path) -> tuple[tuple[str, ...], Array]:
    """The names that the first line gives, if it gives some, and the rows."""
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    first = tuple(name.strip(' "') for name in lines[0].split(",")) if lines else ()
    names = () if all(map(_is_number, first)) else first
    rows = lines[bool(names) :]
    if not rows:
        raise ValueError("it holds no rows")
    return names, np.loadtxt(rows, delimiter=",", ndmin=2)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    return f"the outputs {', '.join(names)}" if names else "no outputs"
