"""Modules and attributes that a resource names: installed ones, or those beside its file.

A module that stands beside the resource file wins over any other of its name. So do the modules beside it that it
imports while it is imported; what a function imports when it is called is found as anywhere in Python. When the file
of one has changed since, all of the folder is imported anew; who has the old ones keeps them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import threading
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

from engine.errors import RuntimeUnavailable
from engine.runtimes.stamps import stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from engine.runtimes.stamps import Stamp

# Held by whoever imports what a model needs. Two models that look for their modules at the same time would see each
# other's search path; and where modules import each other in rings, as scipy's do, Python gives a second thread half of
# one (seen: shap and scikit-learn at once).
importing = threading.RLock()

# Modules of a folder whose names another file holds in `sys.modules`: they are there only while their folder imports.
_put_away: dict[Path, dict[str, ModuleType]] = {}

# What was imported before the first module of a folder is somebody else's, though it may stand there too.
_strangers: dict[Path, frozenset[str]] = {}

# The files of a folder's modules as they were when these were imported, by the modules' names.
_files: dict[Path, dict[str, tuple[str, Stamp]]] = {}


def find(name: str, module_name: str, attribute: str, folder: Path) -> Any:
    """An attribute of a module that model `name` asks for. RuntimeUnavailable says why there is none."""
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise RuntimeUnavailable(name, f'"{module_name}" is a module of Python itself and not a model')
    with importing, _anew_if_changed(folder.resolve()):
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


@contextmanager
def _anew_if_changed(folder: Path) -> Iterator[None]:
    """Imports of the folder's modules read their files again when one has changed; if that fails, all is as it was."""
    if folder not in _strangers:
        _strangers[folder] = frozenset(_own(folder))
    old = _own(folder)
    files = _files.setdefault(folder, {})
    if all(name in files and stamp(files[name][0]) == files[name][1] for name in old):
        old = {}
    away = _put_away.pop(folder, {}) if old else {}
    for name in old.keys() - away.keys():
        sys.modules.pop(name, None)
    try:
        yield
    except BaseException:
        if old:
            new = _own(folder).keys() - _put_away.pop(folder, {}).keys()
            for name in new:
                sys.modules.pop(name, None)
            sys.modules.update({name: module for name, module in old.items() if name not in away})
            _put_away[folder] = away
        raise
    if old:
        files.clear()
    for name, module in _own(folder).items():
        place = str(vars(module).get("__file__") or "")
        files.setdefault(name, (place, stamp(place)))


def _own(folder: Path) -> dict[str, ModuleType]:
    """The modules of a folder that were imported for models."""
    # A copy, since another thread may import meanwhile.
    found = {**dict(list(sys.modules.items())), **_put_away.get(folder, {})}
    tops = {name for name, module in found.items() if "." not in name and _stands_in(module, folder)}
    tops -= _strangers.get(folder, frozenset())
    return {name: module for name, module in found.items() if name.partition(".")[0] in tops}


def _stands_in(module: ModuleType, folder: Path) -> bool:
    """Whether a module, or the folder of a package, stands right in this folder."""
    facts = getattr(module, "__dict__", {})  # anything may stand in sys.modules, and do anything when it is asked
    places = facts.get("__path__") or [facts.get("__file__") or ""]
    return any(os.path.dirname(str(place)) == str(folder) for place in places)  # noqa: PTH120  asked of all modules


def _modules_named(tops: set[str]) -> dict[str, ModuleType]:
    # A copy, since another thread may import meanwhile.
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops}


def _is_from(module: ModuleType, spec: ModuleSpec) -> bool:
    """Whether a loaded module stands where the spec says."""
    own = getattr(module, "__spec__", None)
    if spec.origin is not None:
        return own is not None and own.origin == spec.origin
    return list(getattr(module, "__path__", ())) == list(spec.submodule_search_locations or ())
