"""Models that compute in this process, on threads off the event loop: four at once unless `threads` says otherwise.

What computes is a function from arrays to arrays; `python` and `mlserver` say how one is loaded.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import InvalidInput, RequestError, Unreachable
from engine.protocol.columns import layout
from engine.protocol.messages import ModelMetadataResponse
from engine.runtimes.contract import Part
from engine.runtimes.function import Slice, answer_row, answer_stack, together
from engine.runtimes.runs import follow
from engine.runtimes.stacking import Stacker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from concurrent.futures import Future

    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs
    from engine.runtimes.function import Array, Arrays, Function, Result
    from engine.runtimes.stacking import Answers, Stacked
    from engine.runtimes.stacks import Stack

log = logging.getLogger(__name__)

T = TypeVar("T")

# What the names of models' threads begin with.
THREADS_PREFIX = "model-"

# Answers are handed over so long after the first that waits: a slow row should not hold back the answers of those
# before it, and a hand-over for each row would cost more than most rows do.
HAND_OVER_SECONDS = 0.002

# A call with many rows lets others have its threads after so long, and goes on when they had their turn: what is
# fetched from Kafka after a while without a worker can be minutes of work, and a caller waits for an answer.
TURN_SECONDS = 0.01

# A single request is waited for on the spot when the model took less than this for its last call: its thread is done
# sooner than the event loop could turn to something else and be called back, which costs 100 µs of CPU more (a REST
# call of a model took 660 µs that way). A call that takes longer after all is not waited for any further than this.
QUICK_SECONDS, SPOT_SECONDS = 0.0001, 0.0005

# Calls that are out when a model is unloaded end within this time, or hang.
UNLOAD_SECONDS = 5.0


class InProcessRuntime:
    """A model that computes in this process.

    load_function  runs once, on one of the model's threads; RuntimeUnavailable says why it cannot
    max_rows       stack requests whose tensors agree in their first dimension along it, to so many rows in a call;
                   None: each is its own call
    delay          seconds that a stack which is not full waits for more
    """

    def __init__(
        self,
        name: str,
        load_function: Callable[[], Function],
        *,
        max_rows: int | None,
        delay: float = 0.0,
        threads: int,
    ) -> None:
        self.name, self.max_rows, self.delay, self.threads = name, max_rows, delay, threads
        self._load_function = load_function
        self._executor: ThreadPoolExecutor | None = None
        self._function: Function | None = None
        self._timed: _Timed | None = None
        self._stacker: Stacker | None = None
        self._runs: set[_Rows | Stacked] = set()
        self._calls: set[asyncio.Future[Any]] = set()

    async def load(self) -> None:
        """Load the model off the event loop."""
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix=f"{THREADS_PREFIX}{self.name}")
        try:
            function = await asyncio.get_running_loop().run_in_executor(executor, self._load_function)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._timed = _Timed(function.call)
        function = replace(function, call=self._timed)
        self._executor, self._function = executor, function
        if self.max_rows is not None:
            self._stacker = Stacker(
                self.name,
                lambda stack: self._start(partial(_answer, function, stack)),
                calls_at_once=self.threads,
                max_rows=self.max_rows,
                delay=self.delay,
            )

    async def unload(self) -> None:
        """Start no more calls, let those that run end on their threads, and free the model then.

        One that hangs is left behind with its thread, and with the model.
        """
        function, self._function = self._function, None
        executor, self._executor = self._executor, None
        stacker, self._stacker = self._stacker, None
        if stacker is not None:
            stacker.stop()
        for run in self._runs:
            run.stop()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if self._calls and (await asyncio.wait(self._calls, timeout=UNLOAD_SECONDS))[1]:
            log.warning('a call of model "%s" hangs; it is left behind', self.name)
        elif function is not None and function.close is not None:
            await asyncio.to_thread(function.close)

    @property
    def native(self) -> Any:
        """The library's own object of a model that is loaded here; None when it has none, or is elsewhere."""
        return self._function.native if self._function is not None else None

    async def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._function is not None

    async def metadata(self) -> Any:
        """What the model says of its tensors: their names at least, where it takes them by name."""
        function = self._function
        metadata = ModelMetadataResponse(name=self.name, versions=["1"])
        if function is not None:
            metadata.platform = function.platform
            for side, specs in ((metadata.inputs, function.takes), (metadata.outputs, function.gives)):
                for spec in specs:
                    side.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
            if not function.takes:
                for parameter in (*(function.inputs or ()), *function.optional):
                    metadata.inputs.add(name=parameter)
        return metadata

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:  # noqa: ARG002  the contract's; a function sees only tensors
        """Answers in parts: stacked where the resource asks for it, otherwise row by row on the model's threads.

        A thread cannot be stopped: when nothing has come for `timeout` seconds, the rows that are left fail, and the
        call that hangs keeps its thread.
        """
        function = self._function
        refusal = self._refusal(function, columns)
        if refusal is not None or function is None:
            yield Part(range(len(columns)), refusal or Unreachable(f'model "{self.name}" is not loaded'))
            return
        run = self._begin(function, columns)
        self._runs.add(run)
        try:
            async with aclosing(follow(run, self.name, len(columns), timeout)) as parts:
                async for part in parts:
                    yield part
        finally:
            self._runs.discard(run)

    def _begin(self, function: Function, columns: Columns) -> _Rows | Stacked:
        if self._is_quick(columns):
            run = _Rows(function, columns, self._crowded)
            run.start(partial(self._start, wait=SPOT_SECONDS), 1)
            return run
        if self._stacker is not None and (agreed := layout(columns)) is not None:
            return self._stacker.begin(columns, agreed)
        run = _Rows(function, columns, self._crowded)
        run.start(self._start, self.threads)
        return run

    def _crowded(self) -> bool:
        """Whether something waits for a thread."""
        return len(self._calls) > self.threads

    def _is_quick(self, columns: Columns) -> bool:
        """Whether these are a single request that will be answered at once, and wait for no others to be stacked."""
        at_once = len(columns) == 1 and not self._calls and not self.delay
        return at_once and self._timed is not None and self._timed.seconds < QUICK_SECONDS

    def _start(self, work: Callable[[], T], *, wait: float = 0.0) -> asyncio.Future[T]:
        """Have one of the model's threads do something; what has ended within `wait` seconds is done already."""
        assert self._executor is not None
        submitted = self._executor.submit(work)
        if wait and _worked(submitted, wait):
            done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            done.set_result(submitted.result())
            return done
        call = asyncio.wrap_future(submitted)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def _refusal(self, function: Function | None, columns: Columns) -> RequestError | None:
        if function is None:
            return Unreachable(f'model "{self.name}" is not loaded')
        names, wanted = columns.names, function.inputs
        if columns.repeated:
            return InvalidInput(f"the tensors {', '.join(names)} are not all named differently; rename with tensorMap")
        if wanted is not None and not set(wanted) <= set(names) <= {*wanted, *function.optional}:
            return InvalidInput(
                f'model "{self.name}" takes the tensors {", ".join(wanted)} and was given {", ".join(names)}; '
                "rename with tensorMap"
            )
        return None


class _Timed:
    """A model's call, and how many seconds the last one took."""

    def __init__(self, call: Callable[[Arrays], Sequence[tuple[str, Array]]]) -> None:
        self._call, self.seconds = call, math.inf

    def __call__(self, arrays: Arrays) -> Sequence[tuple[str, Array]]:
        since = time.perf_counter()
        try:
            return self._call(arrays)
        finally:
            self.seconds = time.perf_counter() - since


def _worked(submitted: Future[Any], seconds: float) -> bool:
    """Whether something that a thread was given has ended well within this time."""
    try:
        return submitted.exception(seconds) is None
    except TimeoutError:
        return False


def _answer(function: Function, stack: Stack[Stacked]) -> Answers:
    slices = [Slice(run.columns, rows) for run, rows in stack]
    answers = answer_stack(function, slices)
    return [together(results, each.columns) for each, results in zip(slices, answers, strict=True)]


class _Rows:
    """One call's rows, each a call of the model, taken up by the model's threads in turns, handed back in parts."""

    def __init__(self, function: Function, columns: Columns, crowded: Callable[[], bool]) -> None:
        self._function, self._columns, self._crowded = function, columns, crowded
        self._waiting = deque(range(len(columns)))
        self._turns = 0
        self._done: list[Result] = []
        self._adding = Lock()
        self._stopped = False
        self._ready = asyncio.Event()

    def start(self, start: Callable[[Callable[[], bool]], asyncio.Future[bool]], threads: int) -> None:
        """Have so many threads compute."""
        for _ in range(min(threads, len(self._waiting))):
            self._turn(start)

    def _turn(self, start: Callable[[Callable[[], bool]], asyncio.Future[bool]]) -> None:
        self._turns += 1
        turn = start(partial(self._work, asyncio.get_running_loop()))
        if turn.done():
            self._ended(start, turn)
        else:
            turn.add_done_callback(partial(self._ended, start))

    def _ended(self, start: Callable[[Callable[[], bool]], asyncio.Future[bool]], turn: asyncio.Future[bool]) -> None:
        """A thread has ended, well or badly: it has another turn behind the others, or whoever waits should look."""
        self._turns -= 1
        if not turn.cancelled() and turn.exception() is None and turn.result() and not self._stopped:
            self._turn(start)
        else:
            self._ready.set()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return not self._turns

    async def finished(self) -> list[Part]:
        """The parts that have come in since the last time; waits for news."""
        await self._ready.wait()
        self._ready.clear()
        return self.left()

    def left(self) -> list[Part]:
        """The parts that have come in and were not taken yet."""
        with self._adding:
            done, self._done = self._done, []
        return together(done, self._columns)

    def stop(self) -> None:
        """Begin no more calls."""
        self._stopped = True

    def _work(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Run on one of the model's threads: row by row until none is left, or, then it is true, others have a turn."""
        until = time.perf_counter() + TURN_SECONDS
        while not self._stopped:
            try:
                row = self._waiting.popleft()
            except IndexError:
                return False
            self._add(answer_row(self._function, self._columns, row), loop)
            if self._crowded() and time.perf_counter() >= until:
                return True
        return False

    def _add(self, result: Result, loop: asyncio.AbstractEventLoop) -> None:
        with self._adding:
            first = not self._done
            self._done.append(result)
        if first and self._waiting:
            loop.call_soon_threadsafe(loop.call_later, HAND_OVER_SECONDS, self._ready.set)
