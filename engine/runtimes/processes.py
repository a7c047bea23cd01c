"""Models in processes of their own: for code that holds Python's lock, that may crash, or that eats memory.

A process that dies takes one call with it, and the call is made again in a new process. One that does not answer in
time is ended, which a thread cannot be.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from engine.errors import ModelFailed, RequestError, RuntimeUnavailable, TimedOut
from engine.runtimes.child import Load, Loaded, Refused
from engine.runtimes.function import Function

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.runtimes.function import Array, Arrays

# Calls whose process died: so many processes may die of one call before it is told to be at fault.
TRIES = 3

# A process that is told to end and does not is killed after so long.
END_SECONDS = 2.0

# Not `-m`, which would run the module a second time under another name than that of its messages.
_MAIN = "import sys; from engine.runtimes.child import main; main(int(sys.argv[1]))"


def load(
    name: str, load_function: Callable[[], Function], count: int, *, load_timeout: float, timeout: float
) -> Function:
    """A function that is computed by `count` processes, each of which has loaded it.

    load_function  is pickled, and called in each process
    load_timeout   seconds that loading may take
    timeout        seconds that one call may take

    Raises RuntimeUnavailable as `load_function` does, and when a process dies or takes too long meanwhile.
    """
    pool = _Pool(name, load_function, count, load_timeout=load_timeout, timeout=timeout)
    return pool.start()


class _Died(Exception):
    """The process is no more; how it ended."""


class _Pool:
    """Processes that wait for calls. Called from as many threads as there are processes."""

    def __init__(
        self, name: str, load_function: Callable[[], Function], count: int, *, load_timeout: float, timeout: float
    ) -> None:
        self._name, self._load_function, self._count = name, load_function, count
        self._load_timeout, self._timeout = load_timeout, timeout
        # None is a place whose process is to be started by whoever needs it.
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()

    def start(self) -> Function:
        """Start all processes at once, and wait until each has loaded the model."""
        starting: list[_Process] = []
        try:
            starting += [_Process() for _ in range(self._count)]
            with ThreadPoolExecutor(self._count) as waiting:
                loaded = list(waiting.map(self._loaded, starting))
        except BaseException:
            for process in starting:
                process.end()
            raise
        for process in starting:
            self._idle.put(process)
        return loaded[0]

    def call(self, arrays: Arrays) -> Sequence[tuple[str, Array]]:
        """One call by a process that has none; again by a new one when it dies."""
        process = self._idle.get()
        try:
            for _ in range(TRIES):
                try:
                    process = self._living(process)
                    return process.ask(arrays, self._timeout)
                except _Died as death:
                    how, process = f"{death}", None
                except TimedOut:
                    if process is not None:
                        process.end()
                    process = None
                    raise TimedOut(f'model "{self._name}" gave no answer in {self._timeout:g} s') from None
            raise ModelFailed(f"its process ended {TRIES} times with this request, at last {how}")
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all processes; no call is out."""
        with contextlib.suppress(Empty):
            while True:
                if (process := self._idle.get_nowait()) is not None:
                    process.end()

    def _living(self, process: _Process | None) -> _Process:
        """The process, or a new one; that one has died since its last call is not the next one's doing."""
        if process is not None and process.alive:
            return process
        if process is not None:
            process.end()
        return self._restarted()

    def _restarted(self) -> _Process:
        """A new process that has loaded the model; _Died when it was ended meanwhile."""
        process = _Process()
        try:
            self._loaded(process)
        except RuntimeUnavailable as error:
            if process.killed:
                raise _Died("while it was started again") from error
            process.end()
            raise ModelFailed(f"its process ended and cannot be started again: {error.reason}") from error
        return process

    def _loaded(self, process: _Process) -> Function:
        try:
            process.send(Load(self._load_function, tuple(sys.path)))
            answer = process.receive(self._load_timeout)
        except _Died as death:
            raise RuntimeUnavailable(self._name, f"its process ended {death} while it loaded") from None
        except TimedOut:
            raise RuntimeUnavailable(self._name, f"it did not load in {self._load_timeout:g} s") from None
        if isinstance(answer, Refused):
            raise RuntimeUnavailable(self._name, answer.reason)
        assert isinstance(answer, Loaded)
        return Function(
            self.call,
            answer.inputs,
            answer.platform,
            self.close,
            optional=answer.optional,
            takes=answer.takes,
            gives=answer.gives,
        )


class _Process:
    """A process that loads a model and then answers calls, one at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A session of its own, so that Ctrl-C reaches it by us and not by the terminal.
            self._process = subprocess.Popen(  # noqa: S603  ourselves
                [sys.executable, "-P", "-X", "faulthandler", "-c", _MAIN, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())

    def ask(self, arrays: Arrays, timeout: float) -> Sequence[tuple[str, Array]]:
        """What the model answers; RequestError when it refuses or fails, _Died or TimedOut when nothing comes."""
        self.send(dict(arrays))
        answer = self.receive(timeout)
        if isinstance(answer, RequestError):
            raise answer
        given: Sequence[tuple[str, Array]] = answer
        return given

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def killed(self) -> bool:
        """Whether a signal has ended it."""
        return (self._process.poll() or 0) < 0

    def receive(self, timeout: float) -> Any:
        try:
            if not self._connection.poll(timeout):
                raise TimedOut("nothing came in time")
            return self._connection.recv()
        except (EOFError, ConnectionError):
            raise self._death() from None

    def end(self) -> None:
        """Let it go, and wait for it."""
        self._connection.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except (EOFError, ConnectionError):
            raise self._death() from None

    def _death(self) -> _Died:
        self.end()
        code = self._process.returncode
        return _Died(f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}")
