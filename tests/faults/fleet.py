"""Processes of the product that faults are done to."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "broker"))

from product import Product, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

LAUNCH = Path(__file__).resolve().parent / "launch.py"
RESOURCES = Path(__file__).resolve().parent / "resources"
# What only some rows need, that the others do not have to join more groups.
MORE = Path(__file__).resolve().parent / "more"

# Where `launch.py` can stop or kill a worker in its next transaction.
POINTS = ("begin", "begun", "offsets", "records")

# What is promised of a drain.
DRAIN_SECONDS = 15.0


class Victim(Product):
    """A process of the product that stops or dies where it is told to."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(LAUNCH), str(self.arm_file)]

    @property
    def arm_file(self) -> Path:
        return self.directory.parent / "arm"

    def at(self, point: str, name: str = "SIGSTOP", seconds: float = 20.0) -> float:
        """Have it stop or die at that point of its next transaction; the time when it did."""
        self.arm(point, name)
        gone = (lambda: not self.running) if name == "SIGKILL" else (lambda: self.frozen)
        wait_until(gone, f"{name} at {point} of {self.arguments}\n{self.err[-2000:]}", seconds)
        return time.monotonic()

    def hang(self, point: str, seconds: float = 20.0) -> None:
        """Have it wait for ever there, and go on otherwise."""
        self.arm(point, "HANG")
        wait_until(lambda: not self.arm_file.exists(), f"{self.arguments} at {point}", seconds)

    def arm(self, point: str, name: str) -> None:
        """Say what to do at a point."""
        armed = self.arm_file.with_suffix(".new")
        armed.write_text(f"{name} {point}")
        armed.rename(self.arm_file)

    @property
    def frozen(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> float:
        """SIGTERM, exit code 0 and no traceback; how long it took."""
        since = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.wait(DRAIN_SECONDS + 5)
        assert code == 0, f"SIGTERM ended it with {code}\n{self.said[-3000:]}"
        assert "Traceback" not in self.err, f"it printed a traceback\n{self.said[-3000:]}"
        return time.monotonic() - since

    @property
    def resident(self) -> int:
        """Bytes of memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096

    @property
    def children(self) -> list[int]:
        """Its models' own processes."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]

    @property
    def descriptors(self) -> int:
        """Open files and sockets."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    @property
    def tasks(self) -> int:
        """Tasks of asyncio that are not done."""
        told = self.arm_file.with_name("tasks")
        told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        wait_until(told.exists, "the number of its tasks", 10)
        return int(told.read_text())

    @property
    def cpu_seconds(self) -> float:
        """Time of a processor that it has taken so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def set_clock(self, seconds: float) -> None:
        """Set its wall clock forward, or back."""
        told = self.arm_file.with_name("clock")
        told.write_text(str(seconds))
        self.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: not told.exists(), "its clock to be set", 10)

    @property
    def peak(self) -> int:
        """Bytes of memory at the most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class Fleet:
    """Workers of one namespace."""

    def __init__(self, make: Callable[..., Victim]) -> None:
        self._make = make
        self.workers: list[Victim] = []

    def grow(self, count: int = 1, resources: Path = RESOURCES, **flags: object) -> list[Victim]:
        """Start workers side by side and wait until each is ready."""
        new = [self._make("worker", resources, **flags).launch() for _ in range(count)]
        self.workers += new
        for worker in new:
            worker.wait_ready()
        return new

    def kill(self, worker: Victim) -> float:
        """SIGKILL; the time of it."""
        worker.kill()
        self.workers.remove(worker)
        return time.monotonic()

    def end(self, worker: Victim) -> float:
        """SIGTERM and all that is promised of it; how long it took."""
        self.workers.remove(worker)
        return worker.end()

    def end_all(self) -> None:
        for worker in list(self.workers):
            self.end(worker)
