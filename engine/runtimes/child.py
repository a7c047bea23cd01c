"""What runs in a model's own process: it loads the model and answers calls until its socket is closed."""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import errors
from engine.errors import ModelFailed, RequestError, RuntimeUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.protocol.columns import TensorSpec
    from engine.runtimes.function import Array, Arrays, Function


@dataclass(frozen=True, slots=True)
class Load:
    """The first message to the process: what to load, and where its modules are looked for."""

    load_function: Callable[[], Function]
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Its answer: what there is to know of the function, see `Function`."""

    inputs: tuple[str, ...] | None
    platform: str
    optional: tuple[str, ...]
    takes: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Or its answer that the model cannot be loaded."""

    reason: str


def main(descriptor: int) -> None:
    """Serve the socket; ends with it."""
    _go_first()
    threading.Thread(target=_end_with, args=[descriptor], daemon=True).start()
    with Connection(descriptor) as connection:
        function = _load(connection)
        while function is not None:
            try:
                arrays = connection.recv()
            except EOFError:
                return
            answer = _answer(function, arrays)
            try:
                connection.send(answer)
            except (TypeError, AttributeError) as error:
                # Nothing has been written: it is pickled first.
                connection.send(ModelFailed(f"its answer cannot be sent: {error}"))


def _go_first() -> None:
    """When memory runs out, have the kernel end this process rather than the worker."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _end_with(descriptor: int) -> None:
    """End the process when nobody is at the other end any more, even if the model hangs."""
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", 0))
    poll.poll()
    os._exit(0)


def _load(connection: Connection[Any, Any]) -> Function | None:
    load: Load = connection.recv()
    sys.path = [*load.path]
    try:
        function = load.load_function()
    except RuntimeUnavailable as error:
        connection.send(Refused(error.reason))
        return None
    connection.send(Loaded(function.inputs, function.platform, function.optional, function.takes, function.gives))
    return function


def _answer(function: Function, arrays: Arrays) -> Sequence[tuple[str, Array]] | RequestError:
    for array in arrays.values():
        # As in the worker's own process, so that a model is not right in one and wrong in the other.
        array.flags.writeable = False
    try:
        return function.call(arrays)
    except RequestError as error:
        # The model's module may have made a kind of its own, which the worker cannot read.
        kind: type[RequestError] = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return kind(error.text)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the worker is told, whatever it is
        return ModelFailed(f"{type(error).__name__}: {error}")
