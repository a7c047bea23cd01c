"""Workers side by side, with small programs in their place where only the keeping alive is looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.cli import fleet

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 30.0

# Notes its process, says that it is ready, and ends when it is told to; `fail` says how often it fails before.
PROGRAM = """
import os, pathlib, signal, sys
folder, fails, status = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(folder / str(os.getpid())).touch()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if len(list(folder.iterdir())) <= fails:
    print("no broker", file=sys.stderr)
    sys.exit(status)
print("  ready in 0.1 s", flush=True)
signal.pause()
"""


class Fleet:
    """A fleet of that program in a process of its own."""

    def __init__(self, folder: Path, count: int, *, fails: int = 0, status: int = 1) -> None:
        self.folder = folder
        worker = [sys.executable, "-c", PROGRAM, str(folder), str(fails), str(status)]
        code = f"from engine.cli import fleet; fleet.run({worker!r}, {count})"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @property
    def pids(self) -> set[int]:
        """The workers that were started so far."""
        return {int(file.name) for file in self.folder.iterdir()}

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out.decode(), err.decode()

    def stop(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGTERM)
        return self.ended()


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_so_many_workers_run_and_say_which_of_them_speaks(tmp_path: Path) -> None:
    running = Fleet(tmp_path, 3)
    wait_until(lambda: len(running.pids) == 3)
    assert all(map(alive, running.pids))
    code, out, err = running.stop()
    assert (code, err) == (0, "")
    assert set(out.splitlines()) <= {f"{number}|   ready in 0.1 s" for number in (1, 2, 3)}
    assert not any(map(alive, running.pids))


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    running = Fleet(tmp_path, 2)
    wait_until(lambda: len(running.pids) == 2)
    victim = min(running.pids)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(running.pids) == 3)
    code, _, err = running.stop()
    assert code == 0
    assert "was ended by SIGKILL; starting it again in 0.5 s" in err


def test_a_worker_that_cannot_start_ends_all_with_what_it_said(tmp_path: Path) -> None:
    code, _, err = Fleet(tmp_path, 2, fails=100, status=2).ended()
    assert code == 2
    assert "| no broker" in err
    assert "starting it again" not in err


def test_workers_end_with_the_process_that_keeps_them(tmp_path: Path) -> None:
    running = Fleet(tmp_path, 2)
    wait_until(lambda: len(running.pids) == 2)
    running.process.kill()
    running.process.communicate(timeout=SECONDS)
    wait_until(lambda: not any(map(alive, running.pids)))


def test_a_workers_command_has_the_flags_that_were_given() -> None:
    flags = {"kafka_broker": "h:1", "partitions": 4, "namespace": None}
    assert fleet.command(("a.yaml", "b"), flags)[3:] == [
        "worker",
        "a.yaml",
        "b",
        "--kafka-broker",
        "h:1",
        "--partitions",
        "4",
    ]


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_a_number_of_processes_that_is_none_is_wrong_input(count: str) -> None:
    command = [sys.executable, "-c", "from engine.cli import main; main()", "worker", "--processes", count]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
    assert done.returncode == 2


def test_each_worker_shows_its_figures_on_a_port_of_its_own() -> None:
    asked = {"SELDON_METRICS_LISTEN": "127.0.0.1:9100", "HOME": "/home/me"}
    listening = [fleet._environment(asked, number)["SELDON_METRICS_LISTEN"] for number in (1, 2, 3)]
    assert listening == ["127.0.0.1:9100", "127.0.0.1:9101", "127.0.0.1:9102"]
    assert fleet._environment(asked, 2)["HOME"] == "/home/me"


def test_any_free_port_stays_any_free_port() -> None:
    assert fleet._environment({"SELDON_METRICS_LISTEN": "[::1]:0"}, 3) == {"SELDON_METRICS_LISTEN": "[::1]:0"}
    assert fleet._environment({}, 3) == {}
