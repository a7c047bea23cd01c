"""`seldon up` on a terminal: what it waits for, then one line of what it does, below whatever is printed."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from product import SELDON, environment, infer, inputs, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\n"
MODEL = """
def double(INPUT):
    print(f"the model got {INPUT.ravel()[0]}")
    return {"OUTPUT": INPUT * 2}
"""
RESOURCES = (
    f"{HEAD}kind: Model\nmetadata: {{name: double}}\nspec: {{storageUri: 'python:printing:double'}}\n---\n"
    f"{HEAD}kind: Pipeline\nmetadata: {{name: twice}}\n"
    "spec: {steps: [{name: double}], output: {steps: [double]}}\n"
)
SOON = 45.0


class Terminal:
    """What a program has written to a terminal of 100 columns."""

    def __init__(self, command: Sequence[str], settings: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(settings))
        os.close(theirs)
        self.written = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while chunk := _read(self._ours):
            self.written += decoder.decode(chunk)

    def lines(self) -> list[str]:
        """The lines that stay: of each, what was written after it was erased last."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.written)
        return [line.rpartition("\r\x1b[K")[2] for line in plain.split("\r\n")]

    def wait(self) -> int:
        """The exit code, once all is read that was written."""
        code = self.process.wait(SOON)
        self._reading.join(SOON)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join(SOON)
        os.close(self._ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other side is closed
        return b""


@contextmanager
def up(broker: str, namespace: str, folder: Path, **settings: str) -> Iterator[Terminal]:
    """`seldon up` on a terminal, with a pipeline whose model prints."""
    (folder / "printing.py").write_text(MODEL)
    (folder / "twice.yaml").write_text(RESOURCES)
    flags = ["--kafka-broker", broker, "--namespace", namespace, "--listen", "127.0.0.1:0", "--partitions", "2"]
    running = Terminal(
        [SELDON, "up", str(folder), *flags], {"TERM": "xterm", "SELDON_SESSION_TIMEOUT": "2", **settings}
    )
    try:
        wait_until(lambda: "Ctrl-C stops" in running.written, lambda: running.written, SOON)
        yield running
    finally:
        running.close()


def address(terminal: Terminal) -> str:
    found = re.search(r"gateway  (\S+),", terminal.written)
    assert found is not None, terminal.written
    return found[1]


def test_it_says_what_it_waits_for_and_then_what_it_does(broker: str, namespace: str, tmp_path: Path) -> None:
    with up(broker, namespace, tmp_path) as terminal:
        assert "connecting to the broker" in terminal.written
        assert "loading models" in terminal.written

        def called() -> re.Match[str] | None:
            infer(address(terminal), "pipelines/twice", inputs(INPUT=[1]))
            return re.search(
                r"calls [1-9]\S*/s  p99 \S+ m?s  pipelines [1-9]\S*/s  lag \d+  in flight \d+  failed 0/s",
                re.sub(r"\x1b\[[0-9;]*m", "", terminal.written),
            )

        wait_until(called, lambda: terminal.written, SOON)


def test_what_models_print_and_log_lines_are_whole_and_nothing_of_the_line_is_left(
    broker: str, namespace: str, tmp_path: Path
) -> None:
    with up(broker, namespace, tmp_path, SELDON_LOG_LEVEL="DEBUG") as terminal:
        wait_until(lambda: "in flight" in terminal.written, lambda: terminal.written, SOON)
        for number in range(5):
            infer(address(terminal), "pipelines/twice", inputs(INPUT=[number]))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == 0
        told = terminal.lines()
    assert [line for line in told if "the model" in line] == [f"the model got {number}" for number in range(5)]
    assert [line for line in told if " DEBUG " in line]
    assert told[-1] == ""
    assert not [line for line in told if "in flight" in line]
    assert "Traceback" not in terminal.written


def test_colours_are_left_out_where_they_are_not_wanted(broker: str, namespace: str, tmp_path: Path) -> None:
    with up(broker, namespace, tmp_path, NO_COLOR="1") as terminal:
        wait_until(lambda: "in flight" in terminal.written, lambda: terminal.written, SOON)
        assert not re.search(r"\x1b\[(?:\d+;)*3\d", terminal.written)
