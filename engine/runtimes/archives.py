"""Archives of models, unpacked without trust in who packed them: files and folders below one folder, and no more."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

# Files and folders of one artefact. The largest model folders have hundreds; an archive of a few kilobytes can
# name millions.
MAX_MEMBERS = 10_000

# How much is read and written at once.
CHUNK = 1 << 20

# tarfile reads a header of the length that the archive claims into memory, and a compressed one of gigabytes is small.
MAX_HEADER = 4 * CHUNK

# A member's name and its contents; None is a folder.
Member: TypeAlias = "tuple[str, IO[bytes] | None]"

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    # Headers of headers of headers.
    RecursionError,
)


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, took: Callable[[int], None]) -> None:
    """Put a folder of the archive's name in place of a zip or tar file; one that holds just a folder is that folder.

    `took` is told the bytes of each piece before it is written. Raises ValueError, naming the member, for whatever
    would leave the folder, for links, devices and passwords, for too many members, and for an archive that is broken
    or empty; and what `took` raises.
    """
    packed, into = archive.with_name(f"{archive.name}.packed"), archive
    archive.rename(packed)
    into.mkdir()
    try:
        _unpack(packed, into, took)
    except _BROKEN as error:
        raise ValueError(f"it is no whole archive: {error}") from error
    packed.unlink()
    entries = list(into.iterdir())
    if not entries:
        raise ValueError("the archive is empty")
    if len(entries) == 1 and entries[0].is_dir():
        into.rename(packed)
        (packed / entries[0].name).rename(into)
        packed.rmdir()


def member_path(name: str) -> PurePosixPath:
    """Where a member goes below the folder that it is unpacked to. ValueError when its name leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"member {name!r} would be written outside its folder")
    return path


def write(contents: IO[bytes], target: Path, took: Callable[[int], None]) -> None:
    """Write a new file, safe from a power failure once it is written. OSError when it exists or the disk is full."""
    with target.open("xb") as file:
        while chunk := contents.read(CHUNK):
            took(len(chunk))
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _unpack(packed: Path, into: Path, took: Callable[[int], None]) -> None:
    members = _zipped if into.name.lower().endswith(".zip") else _tarred
    for count, (name, contents) in enumerate(members(packed), 1):
        if count > MAX_MEMBERS:
            raise ValueError(f"it holds more than {MAX_MEMBERS} files and folders")
        target = into / member_path(name)
        if contents is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            _put(name, contents, target, took)


def _put(name: str, contents: IO[bytes], target: Path, took: Callable[[int], None]) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(contents, target, took)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"member {name!r} stands where another one does") from error


def _zipped(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            # Archives that were not made on a POSIX system have no file type.
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(member.filename, "a link" if kind == stat.S_IFLNK else "a device")
            if member.flag_bits & 1:
                raise _refusal(member.filename, "locked with a password")
            if member.is_dir():
                yield member.filename, None
            else:
                with packed.open(member) as contents:
                    yield member.filename, contents


def _tarred(archive: Path) -> Iterator[Member]:
    """Members of a tar file, packed by gzip or not, whatever its name says: some servers unpack it on the way."""
    with archive.open("rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        plain = cast("IO[bytes]", gzip.GzipFile(fileobj=raw) if packed else raw)
        # Not the filters of tarfile: not every Python 3.11 has them, and links that fooled them were found in some.
        with plain, tarfile.open(fileobj=cast("IO[bytes]", _Headers(plain)), mode="r:") as tar:
            for member in tar:
                if member.isdir():
                    yield member.name, None
                elif member.isreg():
                    yield member.name, tar.extractfile(member)
                else:
                    raise _refusal(member.name, "a link" if member.issym() or member.islnk() else "a device")


def _refusal(member: str, what: str) -> ValueError:
    return ValueError(f"member {member!r} is {what}; only plain files and folders are unpacked")


class _Headers:
    """A file that refuses to read a header of any length that a tar file claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)
