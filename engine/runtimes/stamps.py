"""What tells that a file has changed, on any file system: its place on the disk, its size and its times."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

# Nothing: there is no file, or none that we may look at.
Stamp: TypeAlias = "tuple[int, ...]"


def stamp(path: str | Path) -> Stamp:
    """The stamp of a file, or of what a link leads to."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def size(found: Stamp) -> int | None:
    """The bytes of the file with this stamp; None when there is none."""
    return found[2] if found else None
