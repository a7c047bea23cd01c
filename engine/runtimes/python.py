"""Python callables as models: `python:PACKAGE.MODULE:ATTRIBUTE`.

A function takes the input tensors as numpy arrays by their names and gives a dict of output names to arrays. A class
is made without arguments; its `load()` runs once, if there is one, and its `infer` is called as a function is.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import ModelFailed, RuntimeUnavailable
from engine.runtimes.inprocess import Function

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.runtimes.inprocess import Array, Arrays

# Two models that look for their modules at the same time would see each other's search path.
_importing = threading.Lock()


def load(name: str, uri: str, folder: Path) -> Function:
    """Import the attribute, from an installed module or one beside the resource file; make the class if it is one.

    Raises RuntimeUnavailable, naming the model and what to do.
    """
    found = _import(name, uri, folder)
    if inspect.isclass(found):
        found = _make(name, found)
    if not callable(found):
        raise RuntimeUnavailable(name, f'"{uri}" is no function, and no class with an `infer`')
    return Function(_calling(name, found), _parameters(found), "python")


def _import(name: str, uri: str, folder: Path) -> Any:
    module_name, _, attribute = uri.removeprefix("python:").partition(":")
    if not module_name or not attribute:
        raise RuntimeUnavailable(name, f'"{uri}" is not of the form python:PACKAGE.MODULE:ATTRIBUTE')
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise RuntimeUnavailable(name, f'"{module_name}" is a module of Python itself and not a model')
    with _importing:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
            importlib.invalidate_caches()
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            reason = f"{error}; it must be installed, or stand beside the resource file in {folder}"
            raise RuntimeUnavailable(name, reason) from error
        except Exception as error:
            raise RuntimeUnavailable(name, f"importing {module_name} raised {type(error).__name__}: {error}") from error


def _make(name: str, cls: type) -> Any:
    try:
        made: Any = cls()
        if hasattr(made, "load"):
            made.load()
    except Exception as error:
        raise RuntimeUnavailable(name, f"loading raised {type(error).__name__}: {error}") from error
    return getattr(made, "infer", None)


def _calling(name: str, function: Callable[..., Any]) -> Callable[[Arrays], list[tuple[str, Array]]]:
    def call(arrays: Arrays) -> list[tuple[str, Array]]:
        answer = function(**arrays)
        if not isinstance(answer, dict) or not answer:
            raise ModelFailed(
                f'model "{name}" gave {type(answer).__name__}; it must give a dict of output names to arrays'
            )
        return [(str(output), np.asarray(value)) for output, value in answer.items()]

    return call


def _parameters(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names that the tensors must have; None when the function takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters)
