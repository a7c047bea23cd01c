"""The processes that are measured: started, watched, ended; what the kernel says of their CPU."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from bench import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SELDON = str(Path(sys.executable).with_name("seldon"))
MLSERVER = str(Path(sys.executable).with_name("mlserver"))
STOP_DEADLINE = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """One process under measurement, in the repository's root; `with` ends it.

    Its environment is this one's without the product's own settings, so that a shell's SELDON_... changes no figure.
    """

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        self._command = list(command)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SELDON_")}
        self._environment = {**kept, "PYTHONUNBUFFERED": "1", **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self.started = 0.0

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._errors is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        assert self._process is not None
        return _cpu_seconds(self._process.pid)

    def tree_cpu_seconds(self) -> float:
        """The same of it and of the processes that it has started, as long as they live."""
        assert self._process is not None
        return sum(map(_cpu_seconds, _tree(self._process.pid)))

    def check(self) -> None:
        """Raise with what it said when it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{' '.join(self._command)} ended with {self._process.returncode}:\n{self.errors()}")

    def wait_for(self, patterns: Sequence[str], deadline: float = 60.0) -> list[re.Match[str]]:
        """Read its output until a line matches each pattern, in their order; raises when one is missing."""
        assert self._process is not None
        assert self._process.stdout is not None
        found: list[re.Match[str]] = []
        until = time.monotonic() + deadline
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            rest = b""
            while time.monotonic() < until:
                if not selector.select(0.5):
                    continue
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    self._process.wait(STOP_DEADLINE)
                    self.check()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if match := re.search(patterns[len(found)], line.decode()):
                        found.append(match)
                    if len(found) == len(patterns):
                        return found
        raise RuntimeError(f"{' '.join(self._command)} did not say {patterns[len(found)]!r}:\n{self.errors()}")

    def errors(self) -> str:
        """The end of what it wrote to stderr."""
        assert self._errors is not None
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4000))
        return self._errors.read().decode(errors="replace")


def _cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text()
    # The name in parentheses may hold spaces; utime and stime are fields 14 and 15, counted from 1.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))
