"""What stands at an address that fsspec opens, asked for and fetched within deadlines. All of it blocks."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import fsspec
from fsspec.registry import known_implementations

from engine.runtimes import archives

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path, PurePosixPath

T = TypeVar("T")

# An artefact may take so much of the disk, fetched and unpacked: more than most machines could load, and less than
# an archive of a few megabytes can unpack to.
MAX_BYTES = 16 << 30

# A server that sends nothing for so long has forgotten us, and one that sends a byte now and then is no better.
STALL_SECONDS = 60.0
FETCH_SECONDS = 3600.0
CONNECT_SECONDS = 30.0

# Answers of a server that say nothing of the artefact.
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

# What fsspec opens on this machine, through another address or by running things: a way past the checks of paths.
_NO_STORES = frozenset(
    {"arrow_hdfs", "async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "dask", "data", "dir"}
    | {"dvc", "file", "filecache", "generic", "git", "jlab", "jupyter", "libarchive", "local", "pyscript"}
    | {"reference", "simplecache", "tar", "zip"}
)

# What file systems call that which changes with a file's contents; where there is none, times have to do.
_TAGS = ("etag", "contentmd5", "contenthash", "digest", "checksum", "md5hash", "md5", "crc32c", "sha256", "versionid")
_TIMES = ("lastmodified", "mtime", "modified", "updated", "modify", "modificationtime", "lastwritetime", "created")


def schemes() -> tuple[str, ...]:
    """The schemes of addresses that artefacts are fetched from, in order; some need a package of their own."""
    return tuple(sorted(known_implementations.keys() - _NO_STORES))


def is_address(uri: str) -> bool:
    """Whether an artefact can be fetched from there. Addresses within addresses (`zip://…::…`) are none."""
    scheme, _, rest = uri.partition("://")
    return scheme in schemes() and bool(rest)


def shown(uri: str) -> str:
    """The address as it may be told and logged: without a password, and without a query, which may be a signature.

    >>> shown("https://me:secret@host/model.zip?signature=abc")
    'https://host/model.zip'
    """
    scheme, colon, rest = uri.partition("://")
    return scheme + colon + re.sub(r"^[^/]*@|[?#].*", "", rest, flags=re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands at an address now.

    system    the file system of fsspec
    files     each file's path for the file system, where it goes below the artefact (None: it is the artefact), and
              its size in bytes if that is told
    version   that which changes when they do; None when the file system does not tell
    """

    system: Any
    files: tuple[tuple[str, PurePosixPath | None, int | None], ...]
    version: str | None


def look(uri: str) -> Stored:
    """Ask what stands at the address. Raises whatever the file system does, ValueError and TimeoutError."""
    return _in_time(lambda _: _look(uri))


def bring(stored: Stored, into: Path, name: str) -> None:
    """Fetch all files into a folder, as one file of that name or a folder of it; a whole archive is unpacked to one.

    Raises whatever the file system does, ValueError for what is too large or leads out of the folder, and
    TimeoutError; what is in the folder is not whole then, and may still grow a little.
    """
    _in_time(lambda progress: _bring(stored, into, name, progress.add))


def is_answer(error: Exception) -> bool:
    """Whether somebody was asked and says that there is nothing, or nothing for us."""
    cause = _cause(error)
    if isinstance(cause, aiohttp.ClientResponseError):
        return cause.status < HTTPStatus.INTERNAL_SERVER_ERROR and cause.status not in _BUSY
    if isinstance(cause, (aiohttp.ClientError, TimeoutError)):
        return False
    return isinstance(error, (FileNotFoundError, PermissionError, ValueError, ImportError))


def reason(error: Exception, uri: str) -> str:
    """What went wrong, in words that hold nothing secret of the address."""
    cause = _cause(error)
    if isinstance(cause, aiohttp.ClientResponseError):
        return f"the server answers {cause.status} {cause.message}"
    if isinstance(error, ImportError):
        package = getattr(error.__cause__, "name", None)
        return f"it needs {package}; pip install {package}" if package else str(error)
    if cause is error and isinstance(error, FileNotFoundError):
        return "nothing is there"
    text = str(cause).replace(uri, shown(uri))
    return text if text and isinstance(cause, (ValueError, TimeoutError)) else f"{type(cause).__name__}: {text}"


def version_of(info: Mapping[str, Any]) -> str | None:
    """What of a file system's `info` changes with the contents: tags, else times, with the size. None: nothing does."""
    facts = {re.sub("[-_]", "", key.lower()): value for key, value in info.items() if value not in (None, "")}
    for names in (_TAGS, _TIMES):
        told = [f"{name}={facts[name]}" for name in names if name in facts]
        if told:
            return f"{' '.join(told)} size={facts.get('size')}"
    return None


def _look(uri: str) -> Stored:
    system, path = _system(uri)
    info = system.info(path)
    if info["type"] != "directory":
        return Stored(system, ((path, None, info.get("size")),), version_of(info))
    prefix, found = path.rstrip("/") + "/", system.find(path, detail=True)
    files = {each: details for each, details in sorted(found.items()) if details["type"] != "directory"}
    if not files:
        raise FileNotFoundError(uri)
    if len(files) > archives.MAX_MEMBERS:
        raise ValueError(f"it holds more than {archives.MAX_MEMBERS} files")
    places = tuple(
        (each, archives.member_path(each.removeprefix(prefix)), details.get("size")) for each, details in files.items()
    )
    versions = [version_of(details) for details in files.values()]
    return Stored(system, places, None if None in versions else str(list(zip(files, versions, strict=True))))


def _system(uri: str) -> tuple[Any, str]:
    """The file system of an address, made anew since others remember what they have seen, and the path in it."""
    scheme = uri.partition("://")[0]
    cls = fsspec.get_filesystem_class(scheme)
    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        if urlsplit(uri).path.endswith("/"):
            raise ValueError("HTTP has no folders; serve the artefact as a file or an archive")
        # aiohttp's own deadline of five minutes for the whole would end large downloads.
        timeout = aiohttp.ClientTimeout(FETCH_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
        options["client_kwargs"] = {"timeout": timeout}
    # Underscored, and yet what fsspec says each file system is to define; its public way would follow `::`.
    given = cls._get_kwargs_from_urls(uri)
    return cls(**given, **options, skip_instance_cache=True), cls._strip_protocol(uri)


def _bring(stored: Stored, into: Path, name: str, took: Callable[[int], None]) -> None:
    if sum(size or 0 for _, _, size in stored.files) > MAX_BYTES:
        raise _too_large()
    for path, place, size in stored.files:
        target = into / name / (place or "")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A stream over HTTP: in blocks, each a request of its own, a file could change in between.
        options = {"block_size": 0, "size": size} if "http" in stored.system.protocol else {}
        with stored.system.open(path, "rb", **options) as contents:
            archives.write(contents, target, took)
        if size is not None and size != target.stat().st_size:
            raise ValueError(f"{target.name} ended after {target.stat().st_size} of {size} bytes")
        if place is None and archives.is_archive(name):
            archives.unpack(target, took)


class _Progress:
    """How far a thread has come, and whether anybody still waits for it."""

    def __init__(self) -> None:
        self.moved, self.abandoned = 0, False

    def add(self, amount: int) -> None:
        if self.abandoned:
            raise TimeoutError("nobody waits for it any more")
        self.moved += amount
        if self.moved > MAX_BYTES:
            raise _too_large()


def _in_time(work: Callable[[_Progress], T]) -> T:
    """What `work` gives; TimeoutError when it stands still or takes too long, and its thread is left behind then.

    A thread of its own, since most file systems have no deadlines and none can be interrupted.
    """
    progress, future = _Progress(), Future[T]()

    def run() -> None:
        try:
            future.set_result(work(progress))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, name="artefact", daemon=True).start()
    due, moved = time.monotonic() + FETCH_SECONDS, 0
    while not wait([future], min(STALL_SECONDS, due - time.monotonic())).done:
        late = time.monotonic() >= due
        if late or progress.moved == moved:
            progress.abandoned = True
            raise TimeoutError(f"not done in {FETCH_SECONDS:g} s" if late else f"nothing came for {STALL_SECONDS:g} s")
        moved = progress.moved
    return future.result()


def _too_large() -> ValueError:
    return ValueError(f"it takes more than {MAX_BYTES} bytes, fetched and unpacked")


def _cause(error: Exception) -> BaseException:
    """What went wrong, which fsspec calls a file that is not there whenever it is over HTTP."""
    return error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
