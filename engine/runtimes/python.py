"""Python callables as models: `python:PACKAGE.MODULE:ATTRIBUTE`.

A function takes the input tensors as read-only numpy arrays by their names and gives a dict of output names to arrays.
A class is made with the model's parameters; its `load()` runs once, if there is one, and its `infer` is called as a
function is. Coroutines will do for both; they run on an event loop of the model's own.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import ModelFailed, RuntimeUnavailable
from engine.runtimes import modules
from engine.runtimes.function import Function

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from engine.runtimes.function import Array, Arrays

# How long the event loop of a model may take to end.
END_SECONDS = 2.0


def load(name: str, uri: str, folder: Path, parameters: Mapping[str, str]) -> Function:
    """Import the attribute, from an installed module or one beside the resource file; make the class if it is one.

    Raises RuntimeUnavailable, naming the model and what to do.
    """
    found = _import(name, uri, folder)
    if not inspect.isclass(found) and parameters:
        raise RuntimeUnavailable(
            name, f'"{uri}" is no class, so nothing takes the parameter "{next(iter(parameters))}"'
        )
    loop = _Loop(name)
    try:
        if inspect.isclass(found):
            found = _make(name, found, parameters, loop)
        return _function(name, uri, found, loop)
    except BaseException:
        loop.close()
        raise


def _import(name: str, uri: str, folder: Path) -> Any:
    module_name, _, attribute = uri.removeprefix("python:").partition(":")
    if not module_name or not attribute:
        raise RuntimeUnavailable(name, f'"{uri}" is not of the form python:PACKAGE.MODULE:ATTRIBUTE')
    return modules.find(name, module_name, attribute, folder)


def _function(name: str, uri: str, found: Any, loop: _Loop) -> Function:
    if not callable(found):
        raise RuntimeUnavailable(name, f'"{uri}" is no function, and no class with an `infer`')
    try:
        required, optional = _parameters(found)
    except ValueError as error:
        raise RuntimeUnavailable(name, f'"{uri}" cannot be called with tensors by their names: {error}') from error
    return Function(_calling(name, found, loop), required, "python", loop.close, optional=optional)


class _Loop:
    """An event loop on a thread of its own, which the first coroutine starts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def result(self, given: Any) -> Any:
        """What was given, or what comes of it when it is a coroutine; called from any thread."""
        return self._run(given) if inspect.iscoroutine(given) else given

    def close(self) -> None:
        """End the loop and its thread; coroutines that still run are given up."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(END_SECONDS)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._serve, args=[self._loop], name=f"loop-{self._name}")
                self._thread.daemon = True
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.get_loop().run_forever()


def _make(name: str, cls: type, parameters: Mapping[str, str], loop: _Loop) -> Any:
    try:
        made: Any = cls(**parameters)
        if hasattr(made, "load"):
            loop.result(made.load())
    except Exception as error:
        raise RuntimeUnavailable(name, f"loading raised {type(error).__name__}: {error}") from error
    return getattr(made, "infer", None)


def _calling(name: str, function: Callable[..., Any], loop: _Loop) -> Callable[[Arrays], list[tuple[str, Array]]]:
    def call(arrays: Arrays) -> list[tuple[str, Array]]:
        answer = loop.result(function(**arrays))
        if not isinstance(answer, dict):
            raise ModelFailed(
                f'model "{name}" gave {type(answer).__name__}; it must give a dict of output names to arrays'
            )
        if not answer:
            raise ModelFailed(f'model "{name}" gave an empty dict; it must give at least one output')
        return [(str(output), _array(str(output), value)) for output, value in answer.items()]

    return call


def _array(output: str, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype == object:
        for element in array.reshape(-1):
            if not isinstance(element, (str, bytes)):
                raise ModelFailed(
                    f'output "{output}" holds {type(element).__name__}; numbers, text and bytes can be sent'
                )
    return array


def _parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names that the tensors must have (None when the function takes any), and those they may have besides.

    ValueError when it takes none by name.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None, ()
    if any(parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) for parameter in parameters):
        raise ValueError("it has parameters that cannot be given by name")
    required = tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)
    return required, tuple(parameter.name for parameter in parameters if parameter.default is not parameter.empty)
