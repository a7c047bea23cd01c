"""The files that a model comes from: when one of them changes, the model is to be loaded anew.

They are an artefact's file, or all in its folder, and the modules beside the resource file: the one that is named and
those that it imports, as its text says. What is installed or stands elsewhere is not looked at.
"""

from __future__ import annotations

import ast
import os
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.runtimes import artefacts, mlserver
from engine.runtimes.stamps import stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.resources import Model
    from engine.runtimes.stamps import Stamp


def of(model: Model, folder: Path) -> dict[str, Stamp]:
    """The files of a model whose resource file stands in `folder`. Nothing when it has none here."""
    artefact = _artefact(model.storage_uri, folder)
    return {path: found for path in (*artefact, *_modules(_named(model), folder)) if (found := stamp(path))}


def _artefact(uri: str, folder: Path) -> Iterator[str]:
    if not uri or not artefacts.is_local(uri):
        return
    with suppress(ValueError):
        place = folder / artefacts.path_of(uri)
        yield str(place)
        for root, folders, names in os.walk(place):
            folders[:] = [each for each in folders if not each.startswith(".") and each != "__pycache__"]
            yield from (os.path.join(root, each) for each in names if not each.startswith("."))  # noqa: PTH118  faster


def _named(model: Model) -> Iterator[str]:
    """The modules that a model names."""
    scheme, _, rest = model.storage_uri.partition(":")
    if scheme == "python":
        yield rest.partition(":")[0]
    for name, value in model.parameters:
        if name == mlserver.IMPLEMENTATION:
            yield value


def _modules(names: Iterable[str], folder: Path) -> Iterator[str]:
    """The files of these modules that stand in the folder, and of those there that they import."""
    waiting = [name.partition(".")[0] for name in names]
    seen = set(sys.stdlib_module_names)
    while waiting:
        top = waiting.pop()
        if top in seen:
            continue
        seen.add(top)
        for path in (folder / f"{top}.py", *sorted((folder / top).rglob("*.py"))):
            yield str(path)
            if found := stamp(path):
                waiting += _imported(str(path), found)


@lru_cache(maxsize=1024)
def _imported(path: str, _: Stamp) -> frozenset[str]:
    """The first parts of all names that a module imports; nothing when it cannot be read."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return frozenset()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)
