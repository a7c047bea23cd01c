"""Python callables as models: `python:PACKAGE.MODULE:ATTRIBUTE`.

A function takes the input tensors as read-only numpy arrays by their names and gives a dict of output names to arrays.
A class is made without arguments; its `load()` runs once, if there is one, and its `infer` is called as a function is.

A module that stands beside the resource file wins over any other of its name. So do the modules beside it that it
imports while it is imported; what a function imports when it is called is found as anywhere in Python.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import threading
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import ModelFailed, RuntimeUnavailable
from engine.runtimes.inprocess import Function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from engine.runtimes.inprocess import Array, Arrays

# Two models that look for their modules at the same time would see each other's search path.
_importing = threading.Lock()

# Modules of a folder whose names another file holds in `sys.modules`: they are there only while their folder imports.
_put_away: dict[Path, dict[str, ModuleType]] = {}


def load(name: str, uri: str, folder: Path) -> Function:
    """Import the attribute, from an installed module or one beside the resource file; make the class if it is one.

    Raises RuntimeUnavailable, naming the model and what to do.
    """
    found = _import(name, uri, folder)
    if inspect.isclass(found):
        found = _make(name, found)
    if not callable(found):
        raise RuntimeUnavailable(name, f'"{uri}" is no function, and no class with an `infer`')
    if inspect.iscoroutinefunction(found):
        raise RuntimeUnavailable(name, f'"{uri}" is a coroutine; a model is a plain function, on a thread of its own')
    try:
        required, optional = _parameters(found)
    except ValueError as error:
        raise RuntimeUnavailable(name, f'"{uri}" cannot be called with tensors by their names: {error}') from error
    return Function(_calling(name, found), required, "python", optional=optional)


def _import(name: str, uri: str, folder: Path) -> Any:
    module_name, _, attribute = uri.removeprefix("python:").partition(":")
    if not module_name or not attribute:
        raise RuntimeUnavailable(name, f'"{uri}" is not of the form python:PACKAGE.MODULE:ATTRIBUTE')
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise RuntimeUnavailable(name, f'"{module_name}" is a module of Python itself and not a model')
    with _importing:
        try:
            return getattr(_module(module_name, folder.resolve()), attribute)
        except (ImportError, AttributeError) as error:
            reason = f"{error}; it must be installed, or stand beside the resource file in {folder}"
            raise RuntimeUnavailable(name, reason) from error
        except (Exception, SystemExit) as error:
            raise RuntimeUnavailable(name, f"importing {module_name} raised {type(error).__name__}: {error}") from error


def _module(name: str, folder: Path) -> ModuleType:
    top, dot, rest = name.partition(".")
    if str(folder) not in sys.path:
        # For what its functions import when they are called.
        sys.path = [*sys.path, str(folder)]
    importlib.invalidate_caches()
    spec = _beside(top, rest, folder)
    if spec is None:
        return importlib.import_module(name)
    own_name = _own_name(spec, folder)
    with _folder_first(folder):
        _load(own_name, spec)
        return importlib.import_module(own_name + dot + rest)


def _beside(top: str, rest: str, folder: Path) -> ModuleSpec | None:
    """Where the module or package stands in the folder; a folder without the rest of the name is no package of it."""
    spec = PathFinder.find_spec(top, [str(folder)])
    if spec is None or spec.origin is not None:
        return spec
    inner = rest.partition(".")[0]
    found = PathFinder.find_spec(f"{top}.{inner}", list(spec.submodule_search_locations or ())) if inner else None
    return spec if found else None


def _own_name(spec: ModuleSpec, folder: Path) -> str:
    """What a module of the folder goes by: its name, or another one when a file elsewhere holds that."""
    if spec.name not in sys.modules or _is_from(sys.modules[spec.name], spec):
        return spec.name
    return f"{spec.name}_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def _load(name: str, spec: ModuleSpec) -> None:
    """Import a module by its place under this name, unless it is there."""
    if name in sys.modules:
        return
    if spec.origin is None:
        placed = ModuleSpec(name, None, is_package=True)
        placed.submodule_search_locations = list(spec.submodule_search_locations or ())
    else:
        found = importlib.util.spec_from_file_location(
            name, spec.origin, submodule_search_locations=spec.submodule_search_locations
        )
        assert found is not None
        placed = found
    module = sys.modules[name] = importlib.util.module_from_spec(placed)
    try:
        if placed.loader is not None:
            placed.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise


@contextmanager
def _folder_first(folder: Path) -> Iterator[None]:
    """Imports find the modules of the folder, although others of their names may be there already."""
    others = _modules_named(_foreign(folder))
    for name in others:
        del sys.modules[name]
    sys.modules.update(_put_away.get(folder, {}))
    # The path is bound anew, never changed in place: another thread that imports meanwhile would skip an entry.
    sys.path = [str(folder), *sys.path]
    try:
        yield
    finally:
        path = list(sys.path)
        with suppress(ValueError):
            path.remove(str(folder))
        sys.path = path
        mine = _modules_named({name.partition(".")[0] for name in others})
        for name in mine:
            del sys.modules[name]
        _put_away.setdefault(folder, {}).update(mine)
        sys.modules.update(others)


def _foreign(folder: Path) -> set[str]:
    """Names of the folder's modules that other files hold now."""
    names = {module.name for module in pkgutil.iter_modules([str(folder)])}
    # The interpreter's own and ours are never replaced, even for a while.
    names -= sys.stdlib_module_names | {"__main__", "engine"}
    foreign = set()
    for name in names & sys.modules.keys():
        spec = PathFinder.find_spec(name, [str(folder)])
        if spec is not None and not _is_from(sys.modules[name], spec):
            foreign.add(name)
    return foreign


def _modules_named(tops: set[str]) -> dict[str, ModuleType]:
    # A copy, since another thread may import meanwhile.
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops}


def _is_from(module: ModuleType, spec: ModuleSpec) -> bool:
    """Whether a loaded module stands where the spec says."""
    own = getattr(module, "__spec__", None)
    if spec.origin is not None:
        return own is not None and own.origin == spec.origin
    return list(getattr(module, "__path__", ())) == list(spec.submodule_search_locations or ())


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
