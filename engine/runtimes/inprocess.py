"""Models that compute in this process, on threads off the event loop: four at once unless `threads` says otherwise.

What computes is a function from arrays to arrays; `python` and `mlserver` say how one is loaded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from engine.errors import InvalidInput, ModelFailed, RequestError, TimedOut
from engine.protocol import tensors
from engine.protocol.columns import Cells, Columns, TensorSpec
from engine.protocol.messages import ModelMetadataResponse
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from engine.protocol.record import HeaderPairs

log = logging.getLogger(__name__)

Array: TypeAlias = "np.ndarray[Any, Any]"
Arrays: TypeAlias = "Mapping[str, Array]"

DEFAULT_THREADS = 4

# What the names of models' threads begin with.
THREADS_PREFIX = "model-"

# Answers are handed over so long after the first that waits: a slow row should not hold back the answers of those
# before it, and a hand-over for each row would cost more than most rows do.
HAND_OVER_SECONDS = 0.002

# Calls that are out when a model is unloaded end within this time, or hang.
UNLOAD_SECONDS = 5.0

# A deadline that is seen this late was not the model's fault: the whole process stood still.
STOOD_STILL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Function:
    """A loaded model: read-only arrays by tensor name in, (name, array) pairs out.

    call      may give back an array that it fills again for its next answer; raises InvalidInput when it refuses the
              request; whatever else it raises is the model's failure
    inputs    the names that the tensors must have; None when any will do
    optional  names that the tensors may have besides
    platform  what the model's metadata calls it
    close     frees what the model holds, once no call is out
    """

    call: Callable[[Arrays], Sequence[tuple[str, Array]]]
    inputs: tuple[str, ...] | None
    platform: str
    close: Callable[[], None] | None = None
    optional: tuple[str, ...] = ()


class InProcessRuntime:
    """A model that computes in this process.

    load_function  runs once, on one of the model's threads; RuntimeUnavailable says why it cannot
    max_rows       stack requests whose tensors agree in their first dimension along it, to so many rows in a call;
                   None: each is its own call
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
        self._runs: set[_Run] = set()
        self._calls: set[asyncio.Future[None]] = set()

    async def load(self) -> None:
        """Load the model off the event loop."""
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix=f"{THREADS_PREFIX}{self.name}")
        try:
            self._function = await asyncio.get_running_loop().run_in_executor(executor, self._load_function)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._executor = executor

    async def unload(self) -> None:
        """Start no more calls, let those that run end on their threads, and free the model then.

        One that hangs is left behind with its thread, and with the model.
        """
        function, self._function = self._function, None
        executor, self._executor = self._executor, None
        for run in self._runs:
            run.stop()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if self._calls and (await asyncio.wait(self._calls, timeout=UNLOAD_SECONDS))[1]:
            log.warning('a call of model "%s" hangs; it is left behind', self.name)
        elif function is not None and function.close is not None:
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
            for parameter in (*(function.inputs or ()), *function.optional):
                metadata.inputs.add(name=parameter)
        return metadata

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:  # noqa: ARG002  the contract's; a function sees only tensors
        """Answers in parts: stacked where the resource asks for it, otherwise row by row on the model's threads.

        A thread cannot be stopped: when nothing has come for `timeout` seconds, the rows that are left fail, and the
        call that hangs keeps its thread.
        """
        function, executor = self._function, self._executor
        refusal = ModelFailed(f'model "{self.name}" is not loaded') if function is None else self._refusal(columns)
        if refusal is not None or function is None or executor is None:
            yield Part(range(len(columns)), refusal or ModelFailed(f'model "{self.name}" is not loaded'))
            return
        run = _Run(function, columns, self.max_rows)
        answered: set[int] = set()
        loop = asyncio.get_running_loop()
        workers = min(self.threads, run.chunk_count)
        threads = [loop.run_in_executor(executor, run.work, loop) for _ in range(workers)]
        for thread in threads:
            self._calls.add(thread)
            thread.add_done_callback(self._calls.discard)
            thread.add_done_callback(run.wake)
        self._runs.add(run)
        try:
            while not all(thread.done() for thread in threads):
                parts = await self._finished(run, timeout)
                for part in parts:
                    answered.update(part.rows)
                    yield part
        except TimeoutError:
            late = [row for row in range(len(columns)) if row not in answered]
            yield Part(late, TimedOut(f'model "{self.name}" gave no answer in {timeout:g} s'))
            return
        finally:
            self._runs.discard(run)
            run.stop()
        for part in run.left():
            yield part
        if rows := run.not_begun():
            yield Part(rows, ModelFailed(f'model "{self.name}" was unloaded before its turn came'))

    async def _finished(self, run: _Run, timeout: float) -> list[Part]:
        """The next parts; a process that stood still itself (a laptop that slept) gives the model its time again."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + timeout
            try:
                async with asyncio.timeout_at(due):
                    return await run.finished()
            except TimeoutError:
                if loop.time() - due < STOOD_STILL_SECONDS:
                    raise

    def _refusal(self, columns: Columns) -> RequestError | None:
        names = columns.names
        if len(set(names)) < len(names):
            return InvalidInput(f"the tensors {', '.join(names)} are not all named differently; rename with tensorMap")
        wanted = self._function.inputs if self._function is not None else None
        optional = self._function.optional if self._function is not None else ()
        if wanted is not None and not set(wanted) <= set(names) <= {*wanted, *optional}:
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
    except (Exception, SystemExit) as error:
        # A model that calls exit() must not end the process.
        raise ModelFailed(f"{type(error).__name__}: {error}") from error


class _Run:
    """One call's rows, taken chunk by chunk by the model's threads, handed back to the event loop in parts."""

    def __init__(self, function: Function, columns: Columns, max_rows: int | None) -> None:
        self._function, self._columns, self._max_rows = function, columns, max_rows
        # With different first dimensions, a stack would not be many requests but one that broadcasts differently.
        sizes = {spec.shape[:1] for spec in columns.specs}
        self._stacked = max_rows is not None and len(sizes) == 1 and sizes.isdisjoint({(), (0,)})
        self._chunks = deque(self._chunk_rows())
        self.chunk_count = len(self._chunks)
        self._done: list[_Result] = []
        self._adding = Lock()
        self._stopped = False
        self._ready = asyncio.Event()

    async def finished(self) -> list[Part]:
        """The parts that have come in since the last time; waits for news."""
        await self._ready.wait()
        self._ready.clear()
        return self.left()

    def left(self) -> list[Part]:
        """The parts that have come in and were not taken yet."""
        with self._adding:
            done, self._done = self._done, []
        return _together(done, self._columns)

    def stop(self) -> None:
        """Begin no more chunks."""
        self._stopped = True

    def not_begun(self) -> list[int]:
        """The rows that no thread took up, once all threads have ended."""
        return [row for rows in self._chunks for row in rows]

    def wake(self, _thread: object) -> None:
        """A thread has ended, well or badly: whoever waits should look."""
        self._ready.set()

    def work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run on one of the model's threads: chunks until none is left."""
        while not self._stopped:
            try:
                rows = self._chunks.popleft()
            except IndexError:
                return
            self._add(self._stack(rows) if self._stacked else self._single(rows), loop)

    def _add(self, results: list[_Result], loop: asyncio.AbstractEventLoop) -> None:
        with self._adding:
            first = not self._done
            self._done += results
        if first and self._chunks:
            loop.call_soon_threadsafe(loop.call_later, HAND_OVER_SECONDS, self._ready.set)

    def _chunk_rows(self) -> list[range]:
        count = len(self._columns)
        size = 1
        if self._max_rows is not None and self._stacked:
            rows_each = max(1, *(spec.shape[0] for spec in self._columns.specs))
            size = max(1, self._max_rows // rows_each)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def _single(self, rows: range) -> list[_Result]:
        return [self._result(range(row, row + 1), stacked=False) for row in rows]

    def _stack(self, rows: range) -> list[_Result]:
        """One call for all rows; when it fails, each row alone, so that one bad request fails alone."""
        result = self._result(rows, stacked=len(rows) > 1)
        if len(rows) > 1 and isinstance(result.outcome, RequestError):
            return [self._result(range(row, row + 1), stacked=False) for row in rows]
        return [result]

    def _result(self, rows: range, *, stacked: bool) -> _Result:
        """What one call of the model gives for these rows; whatever goes wrong is these rows' error."""
        columns = self._columns
        try:
            arrays = {
                name: _stacked(columns, index, rows) if stacked else columns.array(index, rows.start)
                for index, name in enumerate(columns.names)
            }
            for array in arrays.values():
                # Other steps read the same memory.
                array.flags.writeable = False
            length = len(next(iter(arrays.values()))) if stacked else None
            return _Result(rows, _outputs(_call(self._function, arrays), len(rows), length))
        except RequestError as error:
            return _Result(rows, error)
        except Exception as error:
            log.exception("the answer of a model could not be read")
            return _Result(rows, ModelFailed(f"its answer cannot be read: {type(error).__name__}: {error}"))


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
    part = cells[rows.start : rows.stop].reshape(len(rows) * spec.shape[0], *spec.shape[1:])
    return tensors.float32_of_bf16(part) if spec.datatype == "BF16" else part


def _outputs(
    answer: Sequence[tuple[str, Array]], requests: int, length: int | None
) -> tuple[tuple[TensorSpec, ...], tuple[Cells, ...]]:
    """Arrays as specs and cells: one request's, or those of a stack of `length` rows shared out."""
    specs: list[TensorSpec] = []
    cells: list[Cells] = []
    for name, array in answer:
        try:
            datatype = tensors.datatype_of(array)
        except TypeError as error:
            raise ModelFailed(f'output "{name}": {error}') from None
        shared = array[np.newaxis] if length is None else _shared_out(name, array, requests, length)
        specs.append(TensorSpec(name, datatype, shared.shape[1:]))
        if datatype == "BYTES":
            kind = tensors.DATATYPES[datatype]
            # The ellipsis keeps a row without dimensions an array.
            cells.append([tensors.raw_of(shared[row, ...], kind) for row in range(len(shared))])
        else:
            # A copy, since the model may fill the same array again for the next request.
            cells.append(np.array(shared))
    return tuple(specs), tuple(cells)


def _shared_out(name: str, array: Array, requests: int, length: int) -> Array:
    if not array.ndim or len(array) != length:
        raise ModelFailed(
            f'output "{name}" has shape {list(array.shape)}: of {requests} stacked requests with {length} rows '
            "each must get its own rows"
        )
    return array.reshape(requests, length // requests, *array.shape[1:])


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
