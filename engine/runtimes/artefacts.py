"""Artefacts of models: where a storageUri leads, and the cache of what was fetched from elsewhere.

All of it blocks, and belongs on a model's thread. The cache has a folder for each address and in it one for each
version of what was there. A version appears by renaming, whole or not at all, so processes may share a cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from engine.errors import RuntimeUnavailable
from engine.runtimes import archives, stores

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# A worker may be loading the version before the newest one.
KEPT_VERSIONS = 2

# What was interrupted is removed after this time: nothing is fetched for so long.
LEFTOVER_SECONDS = 24 * stores.FETCH_SECONDS
_PART = ".part-"

# Something may change while it is fetched, but not each time.
ATTEMPTS = 3

# Requirements whose loaders read formats that hold numbers and no code. Whatever is not named here unpickles.
_PLAIN = frozenset({"xgboost", "lightgbm", "onnx"})
_PICKLES = frozenset({".joblib", ".pkl", ".pickle"})


def is_local(uri: str) -> bool:
    """Whether it is a path or a file: address."""
    return uri.partition(":")[0] in (uri, "file")


def unpickles(requirement: str, path: PurePath) -> bool:
    """Whether loading this artefact may run code that it holds. A class that is not known is taken to unpickle."""
    return requirement not in _PLAIN or path.suffix.lower() in _PICKLES


def cache_folder(setting: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the setting `artefact_cache`, or by default one in the user's cache folder."""
    if setting:
        return Path(setting).absolute()
    base = environment.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the specification.
    cache = Path(base) if base.startswith("/") else Path(environment.get("HOME") or "/") / ".cache"
    return cache / "millrace" / "artefacts"


def fetch(name: str, uri: str, folder: Path, cache: Path, *, outside: bool = False) -> Path:
    """The artefact of model `name` on this machine: a file, or a folder.

    A path is looked up in `folder`, the resource file's, and leads out of it only as an absolute path or file:// and
    with `outside`. Any other address is fetched, unless the cache has the version that is there; when the server
    cannot be asked, what the cache has is taken, with a warning. Archives are unpacked.

    Raises RuntimeUnavailable, naming the model, the address and the reason.
    """
    try:
        if stores.is_address(uri):
            return _cached(name, uri, cache)
        found = _local(uri, folder, outside=outside)
        return _cached(name, f"file://{found}", cache) if archives.is_archive(found.name) and found.is_file() else found
    except Exception as error:
        raise RuntimeUnavailable(name, f'"{stores.shown(uri)}": {stores.reason(error, uri)}') from error


def path_of(uri: str) -> Path:
    """The path that is written as a local address. ValueError for one on another machine."""
    parts = urlsplit(uri) if uri.startswith("file:") else None
    if parts is not None and parts.netloc not in ("", "localhost"):
        raise ValueError("it names another machine; write file:///PATH")
    return Path(unquote(parts.path) if parts is not None else uri)


def _local(uri: str, folder: Path, *, outside: bool) -> Path:
    if not is_local(uri):
        raise ValueError("nothing here opens such addresses")
    path = path_of(uri)
    home = folder.resolve()
    found = (home / path).resolve()
    anywhere = outside and path.is_absolute()
    if not (anywhere or found.is_relative_to(home)):
        hint = ", or set allow_pickle" if path.is_absolute() else ""
        raise ValueError(f"it leads out of the resource file's folder {home}; put the artefact there{hint}")
    if not found.exists():
        raise ValueError(f"the artefact {found} does not exist")
    if not anywhere:
        _check_links(found, home)
    return found


def _check_links(found: Path, home: Path) -> None:
    for root, folders, files in os.walk(found):
        for entry in (Path(root, each) for each in (*folders, *files)):
            if entry.is_symlink() and not entry.resolve().is_relative_to(home):
                raise ValueError(f"the link {entry} leads out of the resource file's folder {home}")


def _cached(name: str, uri: str, cache: Path) -> Path:
    """The artefact at an address, from its folder in the cache, which it is put into when it is not there."""
    home = cache / _digest(uri)
    try:
        stored = stores.look(uri)
    except Exception as error:
        kept = _versions(home)
        if stores.is_answer(error) or not kept:
            raise
        told = stores.reason(error, uri)
        log.warning('model "%s": "%s" cannot be asked, taking the cached copy: %s', name, stores.shown(uri), told)
        return _only(kept[0])
    for _ in range(ATTEMPTS):
        version = home / _digest(stored.version or secrets.token_hex())
        if version.is_dir():
            # The last one that was used is the one to take when the server is away.
            _used(version)
            return _only(version)
        part = _new_part(home, cache)
        try:
            stores.bring(stored, part, _file_name(uri))
            before, stored = stored.version, stores.look(uri)
            if stored.version == before:
                return _only(_keep(part, version))
        finally:
            shutil.rmtree(part, ignore_errors=True)
    raise ValueError("it changes each time while it is fetched")


def _file_name(uri: str) -> str:
    """What the artefact is called in the cache: loaders go by a file's suffix."""
    bare = stores.shown(uri) if uri.startswith("http") else uri
    name = re.sub("[^A-Za-z0-9._-]", "_", PurePosixPath(bare).name)[-100:]
    return name if name.strip(".") else "artefact"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _new_part(home: Path, cache: Path) -> Path:
    """A folder of this fetch alone; what others have left behind goes."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in home.glob(f"{_PART}*"):
            if time.time() - _changed(left) > LEFTOVER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_PART, dir=home))
    except OSError as error:
        raise ValueError(
            f"the cache {cache} cannot be written: {error.strerror}; SELDON_ARTEFACT_CACHE names another"
        ) from error


def _keep(part: Path, version: Path) -> Path:
    """Make what was fetched the version; the same one that another process has kept meanwhile stays."""
    try:
        part.rename(version)
    except OSError:
        if not version.is_dir():
            raise
    _used(version)
    for old in _versions(version.parent)[KEPT_VERSIONS:]:
        # Renamed first: half of it must not be taken for whole.
        gone = old.with_name(f"{_PART}{old.name}")
        with suppress(OSError):
            old.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    return version


def _used(version: Path) -> None:
    # A cache that can only be read, in an image say, does as well.
    with suppress(OSError):
        os.utime(version)


def _versions(home: Path) -> list[Path]:
    """What the cache has for an address, the last used first."""
    found = [entry for entry in home.glob("*") if not entry.name.startswith(_PART)]
    return sorted(found, key=_changed, reverse=True)


def _changed(path: Path) -> float:
    """When it was changed; 0.0 for what another process has removed meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _only(version: Path) -> Path:
    return next(version.iterdir())
