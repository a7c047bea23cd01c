"""Runs of the tests side by side want the same things made at one time."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOLS = Path(__file__).parent / ".tools"


@contextlib.contextmanager
def made_by_one(thing: str) -> Iterator[None]:
    """Hold the lock of this checkout for what is to be made; the others wait, and then find it there."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{thing}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
