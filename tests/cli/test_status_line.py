"""The line at the bottom of a terminal, on a pseudo-terminal whose screen is made of what was written to it."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import threading
from typing import Self

import click
import pytest
from rich.text import Text

from engine.cli.status_line import StatusLine

STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """NOT a terminal, but what one shows of what is written to it, as long as no line is wider than it is."""

    def __init__(self, columns: int = 40) -> None:
        self._reading, self._writing = pty.openpty()
        fcntl.ioctl(self._writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = io.TextIOWrapper(os.fdopen(self._writing, "wb", buffering=0), write_through=True)
        self.written = ""

    def lines(self) -> list[str]:
        """The lines of its screen; the last one is where the cursor is."""
        os.set_blocking(self._reading, False)
        try:
            while chunk := os.read(self._reading, 65536):
                self.written += chunk.decode()
        except BlockingIOError:
            pass
        shown = [""]
        for part in re.split(r"(\r\n|\r\x1b\[K)", STYLE.sub("", self.written)):
            if part == "\r\n":
                shown.append("")
            elif part == "\r\x1b[K":
                shown[-1] = ""
            else:
                shown[-1] += part
        return shown

    def __enter__(self) -> Self:
        """Be standard output and standard error: pytest has its own in a test's stead, and sets them after fixtures."""
        self._before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self.stream
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before
        self.stream.close()
        os.close(self._reading)


@pytest.fixture(autouse=True)
def _capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def say(text: str, end: str = "\n", *, flush: bool = False) -> None:
    """As a model does that prints."""
    print(text, end=end, flush=flush)  # noqa: T201


def test_the_line_changes_in_its_place() -> None:
    with Terminal() as terminal, StatusLine() as line:
        line.show(Text("starting"))
        line.show(Text("ready"))
        assert terminal.lines() == ["ready"]


def test_what_is_printed_stands_above_the_line_whole() -> None:
    with Terminal() as terminal, StatusLine() as line:
        line.show(Text("calls 3/s"))
        say("printed by a model")
        click.echo("told", err=True)
        assert terminal.lines() == ["printed by a model", "told", "calls 3/s"]


def test_the_line_waits_until_a_line_that_is_printed_has_its_end() -> None:
    with Terminal() as terminal, StatusLine() as line:
        line.show(Text("calls 3/s"))
        say("half", end="", flush=True)
        line.show(Text("calls 4/s"))
        assert terminal.lines() == ["half"]
        say(" and half")
        assert terminal.lines() == ["half and half", "calls 4/s"]


def test_a_line_that_is_begun_is_held_back_until_it_ends_or_is_flushed_or_is_very_long() -> None:
    with Terminal() as terminal, StatusLine():
        say("first")
        say("half", end="")
        assert terminal.lines() == ["first", ""]
        sys.stdout.flush()
        assert terminal.lines() == ["first", "half"]
        say("")
        say("." * 9000, end="")
        assert terminal.lines() == ["first", "half", "." * 9000]


def test_what_another_thread_tells_goes_above_a_line_that_is_begun_and_not_into_it() -> None:
    with Terminal() as terminal, StatusLine() as line:
        line.show(Text("calls 3/s"))
        say("printed", end="")
        other = threading.Thread(target=click.echo, args=("told",), kwargs={"err": True})
        other.start()
        other.join()
        sys.stdout.write("\n")
        assert terminal.lines() == ["told", "printed", "calls 3/s"]


def test_a_line_that_is_begun_by_a_thread_that_has_ended_is_shown_at_the_end() -> None:
    with Terminal() as terminal:
        with StatusLine():
            other = threading.Thread(target=say, args=("half", ""))
            other.start()
            other.join()
            assert terminal.lines() == [""]
        assert terminal.lines() == ["half"]


def test_nothing_is_left_of_the_line_at_its_end() -> None:
    with Terminal() as terminal:
        with StatusLine() as line:
            line.show(Text("calls 3/s"))
            say("first")
        say("last")
        assert terminal.lines() == ["first", "last", ""]
        assert sys.stdout is sys.stderr is terminal.stream


def test_a_line_that_is_too_long_is_cut() -> None:
    with Terminal() as terminal, StatusLine() as line:
        line.show(Text("a" * 100))
        assert terminal.lines() == ["a" * 38 + "…"]


def test_lines_of_many_threads_stay_whole() -> None:
    def tell(number: int) -> None:
        for _ in range(20):
            sys.stderr.write(f"thread {number}\n")
            line.show(Text(f"status {number}"))

    with Terminal() as terminal, StatusLine() as line:
        threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        *told, status = terminal.lines()
    assert sorted(told) == sorted(f"thread {number}" for number in range(4) for _ in range(20))
    assert status.startswith("status ")


def test_colours_are_left_out_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Terminal() as terminal, StatusLine() as line:
        line.show(Text("failed 3/s", style="red"))
        terminal.lines()
    assert "\x1b[31m" not in terminal.written


@pytest.mark.parametrize("other", ["stdout", "stderr"])
def test_there_is_no_line_where_either_stream_is_no_terminal(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with Terminal() as terminal:
        monkeypatch.setattr(sys, other, out)
        with StatusLine() as line:
            line.show(Text("calls 3/s"))
            getattr(sys, other).write("printed")
        assert terminal.lines() == [""]
    assert out.getvalue() == "printed"


def test_there_is_no_line_on_a_terminal_that_cannot_erase_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Terminal() as terminal, StatusLine() as line:
        line.show(Text("calls 3/s"))
        assert terminal.lines() == [""]
