"""Models that compute in this process, on threads off the event loop: four at once unless `threads` says otherwise.

What computes is a function from arrays to arrays; `python` and `mlserver` say how one is loaded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from engine.errors import InvalidInput, ModelFailed, RequestError
from engine.protocol import tensors
from engine.protocol.columns import Cells, Columns, TensorSpec
from engine.protocol.messages import ModelMetadataResponse
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from engine.protocol.record import HeaderPairs

Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = "Mapping[str, Array]"

DEFAULT_THREADS = 4

# How long a thread goes on with the rows of a call before it hands over what is done: a slow row should not hold back
# the answers of those before it, and a hand-over for each row would cost more than most rows do.
HAND_OVER_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Function:
    """A loaded model: arrays by tensor name in, (name, array) pairs out.

    call      raises InvalidInput when it refuses the request; whatever else it raises is the model's failure
    inputs    the names that the tensors must have; None when any will do
    platform  what the model's metadata calls it
    close     frees what the model holds, once no call is out
    """

    call: Callable[[Arrays], Sequence[tuple[str, Array]]]
    inputs: tuple[str, ...] | None
    platform: str
    close: Callable[[], None] | None = None


class InProcessRuntime:
    """A model that computes in this process.

    load_function  runs once, on one of the model's threads; RuntimeUnavailable says why it cannot
    max_rows       stack requests along the first dimension, to so many rows in a call; None: each is its own call
    """

    def __init__(
        self,
        name: str,
        load_function: Callable[[], Function],
        *,
        max_rows: int | None,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self.name, self.max_rows, self.threads = name, max_rows, threads
        self._load_function = load_function
        self._executor: ThreadPoolExecutor | None = None
        self._function: Function | None = None

    async def load(self) -> None:
        """Load the model off the event loop."""
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix=f"model-{self.name}")
        self._function = await asyncio.get_running_loop().run_in_executor(self._executor, self._load_function)

    async def unload(self) -> None:
        """Start no more calls, let those that run end on their threads, and free the model then."""
        function, self._function = self._function, None
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown, cancel_futures=True)
        if function is not None and function.close is not None:
            await asyncio.to_thread(function.close)

    async def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._function is not None

    async def metadata(self) -> Any:
        """The names of the inputs, where they are known; a function says nothing of datatypes and shapes."""
        function = self._function
        metadata = ModelMetadataResponse(name=self.name, versions=["1"])
        if function is not None:
            metadata.platform = function.platform
            for parameter in function.inputs or ():
                metadata.inputs.add(name=parameter)
        return metadata

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:  # noqa: ARG002  the contract's arguments; a thread cannot be stopped
        """Answers in parts: stacked where the resource asks for it, otherwise row by row on the model's threads."""
        function, executor = self._function, self._executor
        refusal = ModelFailed(f'model "{self.name}" is not loaded') if function is None else self._refusal(columns)
        if refusal is not None or function is None or executor is None:
            yield Part(range(len(columns)), refusal or ModelFailed(f'model "{self.name}" is not loaded'))
            return
        run = _Run(function, columns, self.max_rows)
        loop = asyncio.get_running_loop()
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
        wanted = self._function.inputs if self._function is not None else None
        if wanted is not None and set(wanted) != set(names):
            return InvalidInput(
                f'model "{self.name}" takes the tensors {", ".join(wanted)} and was given {", ".join(names)}; '
                "rename with tensorMap"
            )
        return None


def _call(function: Function, arrays: Arrays) -> Sequence[tuple[str, Array]]:
    """One call of the model; whatever goes wrong in it is the request's error."""
    try:
        return function.call(arrays)
    except RequestError:
        raise
    except Exception as error:
        raise ModelFailed(f"{type(error).__name__}: {error}") from error


class _Run:
    """One call's rows, taken chunk by chunk by the model's threads, handed back to the event loop in parts."""

    def __init__(self, function: Function, columns: Columns, max_rows: int | None) -> None:
        self._function, self._columns, self._max_rows = function, columns, max_rows
        self._stacked = max_rows is not None and all(spec.shape for spec in columns.specs)
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
        size = 1
        if self._max_rows is not None and self._stacked:
            rows_each = max(1, *(spec.shape[0] for spec in self._columns.specs))
            size = max(1, self._max_rows // rows_each)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def _single(self, rows: range) -> list[_Result]:
        results = []
        for row in rows:
            arrays = {name: self._columns.array(index, row) for index, name in enumerate(self._columns.names)}
            try:
                results.append(_Result([row], _outputs(_call(self._function, arrays), None)))
            except RequestError as error:
                results.append(_Result([row], error))
        return results

    def _stack(self, rows: range) -> list[_Result]:
        """One call for all rows; when it fails, each row alone, so that one bad request fails alone."""
        arrays = {name: _stacked(self._columns, index, rows) for index, name in enumerate(self._columns.names)}
        try:
            answer = _call(self._function, arrays)
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


def _stacked(columns: Columns, index: int, rows: range) -> Array:
    """The rows of a tensor along its first dimension, each having as many of it as its shape says."""
    cells, spec = columns.cells[index], columns.specs[index]
    if isinstance(cells, list):
        return np.concatenate([columns.array(index, row) for row in rows])
    part = cells[rows.start : rows.stop].reshape(-1, *spec.shape[1:])
    return tensors.float32_of_bf16(part) if spec.datatype == "BF16" else part


def _outputs(answer: Sequence[tuple[str, Array]], rows: int | None) -> tuple[tuple[TensorSpec, ...], tuple[Cells, ...]]:
    """Arrays as specs and cells: one row when `rows` is None, otherwise their first dimension shared out."""
    specs: list[TensorSpec] = []
    cells: list[Cells] = []
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


def _shared_out(name: str, array: Array, rows: int) -> Array:
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
