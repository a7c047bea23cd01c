"""The processes that are measured: started, watched, ended; what the kernel says of their CPU."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from bench import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

SELDON = str(Path(sys.executable).with_name("seldon"))
MLSERVER = str(Path(sys.executable).with_name("mlserver"))
STOP_DEADLINE = 20.0
TICKS = os.sysconf("SC_CLK_TCK")

# What `seldon up` prints: where it listens, and that all is there.
READY = (r"gateway +(\S+):(\d+),", r"ready in")


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

    def rss_mb(self) -> float:
        """What it holds in memory now."""
        assert self._process is not None
        return _status(self._process.pid, "VmRSS") / 1000

    def tree_rss_mb(self) -> float:
        """The same of it and of the processes that it has started."""
        assert self._process is not None
        return sum(_status(pid, "VmRSS") for pid in _tree(self._process.pid)) / 1000

    def peak_rss_mb(self) -> float:
        """The most that it alone has ever held in memory."""
        assert self._process is not None
        return _status(self._process.pid, "VmHWM") / 1000

    def threads(self) -> int:
        """How many threads it has."""
        assert self._process is not None
        return _status(self._process.pid, "Threads")

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


class Team:
    """Several processes that share one work, measured as one."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes, self._stack = processes, contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for process in self._processes:
                stack.enter_context(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def cpu_seconds(self) -> float:
        """Of all of them."""
        return sum(process.cpu_seconds() for process in self._processes)

    def peak_rss_mb(self) -> float:
        """The sum of what each has held at most."""
        return sum(process.peak_rss_mb() for process in self._processes)

    def check(self) -> None:
        """Raise when one has ended."""
        for process in self._processes:
            process.check()

    def errors(self) -> str:
        """What all of them wrote to stderr."""
        return "\n".join(process.errors() for process in self._processes)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def wait_until(true: Callable[[], bool], process: Process | Team, what: str, deadline: float) -> None:
    """Ask again and again; raises when it is not so in time, or the process ends."""
    until = time.monotonic() + deadline
    while not true():
        process.check()
        if time.monotonic() > until:
            raise RuntimeError(f"after {deadline:.0f} s {what}:\n{process.errors()}")
        time.sleep(0.05)


def _status(pid: int, field: str) -> int:
    """A number of /proc/PID/status; of memory, in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0])


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
