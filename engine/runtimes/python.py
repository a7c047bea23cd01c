"""Python callables as models: `python:PACKAGE.MODULE:ATTRIBUTE`.

A function takes the input tensors as numpy arrays by their names and gives a dict of output names to arrays. A class
is made without arguments; its `load()` runs once, if there is one, and its `infer` is called as a function is. Calls
run on threads, off the event loop: four at once unless the parameter `threads` says otherwise.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InvalidInput, ModelFailed, RequestError, RuntimeUnavailable
from engine.protocol import tensors
from engine.protocol.columns import Cells, Columns, TensorSpec
from engine.protocol.messages import ModelMetadataResponse
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from engine.protocol.record import Headers

    Arrays = Mapping[str, np.ndarray[Any, Any]]

DEFAULT_THREADS = 4

# How long a thread goes on with the rows of a call before it hands over what is done: a slow row should not hold back
# the answers of those before it, and a hand-over for each row would cost more than most rows do.
HAND_OVER_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether requests are stacked along the first dimension, and to how many rows at most."""

    max_rows: int


class PythonRuntime:
    """A Python function or class that computes in this process."""

    def __init__(
        self, name: str, uri: str, folder: Path, *, batching: Batching | None = None, threads: int = DEFAULT_THREADS
    ) -> None:
        self.name, self.uri, self.folder = name, uri, folder
        self.batching, self.threads = batching, threads
        self._executor: ThreadPoolExecutor | None = None
        self._function: Callable[..., Any] | None = None
        self._wanted: tuple[str, ...] | None = ()

    async def load(self) -> None:
        """Import the attribute, make the class if it is one and run its `load`, all off the event loop."""
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix=f"model-{self.name}")
        loop = asyncio.get_running_loop()
        self._function = await loop.run_in_executor(self._executor, self._import)
        self._wanted = _parameters(self._function)

    async def unload(self) -> None:
        """Let running calls end on their threads and start no more."""
        self._function = None
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def ready(self) -> bool:
        """Whether the attribute is loaded."""
        return self._function is not None

    async def metadata(self) -> Any:
        """The function's parameters as inputs; it says nothing of datatypes and shapes."""
        metadata = ModelMetadataResponse(name=self.name, versions=["1"], platform="python")
        for parameter in self._wanted or ():
            metadata.inputs.add(name=parameter)
        return metadata

    async def infer(self, columns: Columns, headers: Sequence[Headers], timeout: float) -> AsyncIterator[Part]:  # noqa: ARG002, ASYNC109  the contract's arguments; threads cannot be stopped
        """Answers in parts: stacked where the resource asks for it, otherwise row by row on the model's threads."""
        refusal = self._refusal(columns)
        if refusal is not None:
            yield Part(range(len(columns)), refusal)
            return
        run = _Run(self, columns)
        loop = asyncio.get_running_loop()
        executor = self._executor
        if executor is None:
            yield Part(range(len(columns)), ModelFailed(f'model "{self.name}" is not loaded'))
            return
        workers = min(self.threads, run.chunk_count)
        threads = [loop.run_in_executor(executor, run.work, loop) for _ in range(workers)]
        for thread in threads:
            thread.add_done_callback(run.wake)
        while not all(thread.done() for thread in threads):
            for part in await run.finished():
                yield part
        await asyncio.gather(*threads)
        for part in run.left():
            yield part

    def _refusal(self, columns: Columns) -> RequestError | None:
        names = columns.names
        if len(set(names)) < len(names):
            return InvalidInput(f"the tensors {', '.join(names)} are not all named differently; rename with tensorMap")
        if self._wanted is not None and set(self._wanted) != set(names):
            return InvalidInput(
                f'model "{self.name}" takes the tensors {", ".join(self._wanted)} and was given {", ".join(names)}; '
                "rename with tensorMap"
            )
        return None

    def call(self, arrays: Arrays) -> list[tuple[str, np.ndarray[Any, Any]]]:
        """One call of the user's function; whatever goes wrong in it is the request's error."""
        assert self._function is not None
        try:
            answer = self._function(**arrays)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001  foreign code may raise anything; it fails this request alone
            raise ModelFailed(f"{type(error).__name__}: {error}") from error
        if not isinstance(answer, dict) or not answer:
            raise ModelFailed(f'model "{self.name}" gave {type(answer).__name__}; it must give a dict of names to arrays')
        return [(str(name), np.asarray(value)) for name, value in answer.items()]

    def _import(self) -> Callable[..., Any]:
        module_name, _, attribute = self.uri.removeprefix("python:").partition(":")
        if not module_name or not attribute:
            raise RuntimeUnavailable(self.name, f'"{self.uri}" is not of the form python:PACKAGE.MODULE:ATTRIBUTE')
        if module_name.partition(".")[0] in sys.stdlib_module_names:
            raise RuntimeUnavailable(self.name, f'"{module_name}" is a module of Python itself and not a model')
        with _beside(self.folder):
            try:
                found = getattr(importlib.import_module(module_name), attribute)
            except (ImportError, AttributeError) as error:
                raise RuntimeUnavailable(
                    self.name, f"{error}; it must be installed, or stand beside the resource file in {self.folder}"
                ) from error
            except Exception as error:
                raise RuntimeUnavailable(
                    self.name, f"importing {module_name} raised {type(error).__name__}: {error}"
                ) from error
        if not inspect.isclass(found):
            return _callable(found, self.name)
        return self._make(found)

    def _make(self, cls: type) -> Callable[..., Any]:
        try:
            made = cls()
            if hasattr(made, "load"):
                made.load()
        except Exception as error:
            raise RuntimeUnavailable(self.name, f"loading raised {type(error).__name__}: {error}") from error
        return _callable(getattr(made, "infer", None), self.name)


def _callable(found: Any, name: str) -> Callable[..., Any]:
    if not callable(found):
        raise RuntimeUnavailable(name, "the attribute is no function, and no class with an `infer`")
    function: Callable[..., Any] = found
    return function


_import_lock = threading.Lock()


class _beside:  # noqa: N801  reads as a phrase where it is used
    """Imports find the modules that stand beside the resource file."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __enter__(self) -> None:
        _import_lock.acquire()
        if self.folder not in sys.path:
            sys.path.append(self.folder)
            importlib.invalidate_caches()

    def __exit__(self, *_: object) -> None:
        _import_lock.release()


def _parameters(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names that a function's tensors must have; None when it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters)


class _Run:
    """One call's rows, taken chunk by chunk by the model's threads, handed back to the event loop in parts."""

    def __init__(self, runtime: PythonRuntime, columns: Columns) -> None:
        self._runtime, self._columns = runtime, columns
        self._stacked = runtime.batching is not None and all(spec.shape for spec in columns.specs)
        self._chunks = deque(self._chunk_rows())
        self.chunk_count = len(self._chunks)
        self._parts: deque[Part] = deque()
        self._ready = asyncio.Event()

    async def finished(self) -> list[Part]:
        """The parts that have come in since the last time; waits for news."""
        await self._ready.wait()
        self._ready.clear()
        return self.left()

    def left(self) -> list[Part]:
        """The parts that have come in and were not taken yet."""
        parts = []
        while self._parts:
            parts.append(self._parts.popleft())
        return parts

    def wake(self, _thread: object) -> None:
        """A thread has ended, well or badly: whoever waits should look."""
        self._ready.set()

    def work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run on one of the model's threads: chunks until none is left."""
        clock = loop.time
        since, done = clock(), []
        while True:
            try:
                rows = self._chunks.popleft()
            except IndexError:
                break
            done.extend(self._stack(rows) if self._stacked else self._single(rows))
            if clock() - since > HAND_OVER_SECONDS:
                self._hand_over(done, loop)
                since, done = clock(), []
        self._hand_over(done, loop)

    def _hand_over(self, done: list[_Result], loop: asyncio.AbstractEventLoop) -> None:
        if done:
            self._parts.extend(_together(done, self._columns))
            loop.call_soon_threadsafe(self._ready.set)

    def _chunk_rows(self) -> list[range]:
        count = len(self._columns)
        batching = self._runtime.batching
        size = 1
        if batching is not None and self._stacked:
            rows_each = max(1, *(spec.shape[0] for spec in self._columns.specs))
            size = max(1, batching.max_rows // rows_each)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def _single(self, rows: range) -> list[_Result]:
        results = []
        for row in rows:
            arrays = {name: self._columns.array(index, row) for index, name in enumerate(self._columns.names)}
            try:
                results.append(_Result([row], _outputs(self._runtime.call(arrays), None)))
            except RequestError as error:
                results.append(_Result([row], error))
        return results

    def _stack(self, rows: range) -> list[_Result]:
        """One call for all rows; when it fails, each row alone, so that one bad request fails alone."""
        arrays = {
            name: _stacked(self._columns, index, rows) for index, name in enumerate(self._columns.names)
        }
        try:
            answer = self._runtime.call(arrays)
            return [_Result(rows, _outputs(answer, len(rows)))]
        except RequestError as error:
            if len(rows) == 1:
                return [_Result(rows, error)]
            return [result for row in rows for result in self._stack(range(row, row + 1))]


@dataclass(frozen=True, slots=True)
class _Result:
    """What a call gave for its rows: specs with cells of shape (rows, ...), or an error."""

    rows: Sequence[int]
    outcome: tuple[tuple[TensorSpec, ...], tuple[Cells, ...]] | RequestError


def _stacked(columns: Columns, index: int, rows: range) -> np.ndarray[Any, Any]:
    """The rows of a tensor along its first dimension, each having as many of it as its shape says."""
    cells, spec = columns.cells[index], columns.specs[index]
    if isinstance(cells, list):
        return np.concatenate([columns.array(index, row) for row in rows])
    part = cells[rows.start : rows.stop].reshape(-1, *spec.shape[1:])
    return tensors.float32_of_bf16(part) if spec.datatype == "BF16" else part


def _outputs(
    answer: list[tuple[str, np.ndarray[Any, Any]]], rows: int | None
) -> tuple[tuple[TensorSpec, ...], tuple[Cells, ...]]:
    """Arrays as specs and cells: one row when `rows` is None, otherwise their first dimension shared out."""
    specs, cells = [], []
    for name, array in answer:
        try:
            datatype = tensors.datatype_of(array)
        except TypeError as error:
            raise ModelFailed(f'output "{name}": {error}') from None
        shared = array[np.newaxis] if rows is None else _shared_out(name, array, rows)
        specs.append(TensorSpec(name, datatype, shared.shape[1:]))
        if datatype == "BYTES":
            kind = tensors.DATATYPES[datatype]
            cells.append([tensors.raw_of(row, kind) for row in shared])
        else:
            cells.append(shared)
    return tuple(specs), tuple(cells)


def _shared_out(name: str, array: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    if not array.ndim or len(array) % rows:
        raise ModelFailed(
            f'output "{name}" has shape {list(array.shape)}: of {rows} stacked requests each must get its own rows'
        )
    return array.reshape(rows, len(array) // rows, *array.shape[1:])


def _together(results: list[_Result], columns: Columns) -> list[Part]:
    """Results of one kind as one part: the fewer parts, the fewer batches follow."""
    groups: dict[Any, list[_Result]] = {}
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
