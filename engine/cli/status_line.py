"""A line at the bottom of a terminal that changes, below what is printed meanwhile."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from typing import TextIO

_ERASE = "\r\x1b[K"
_COLUMNS = 80

# How many characters of a line without an end are held back at most.
_HELD = 8192


class StatusLine:
    """While it is entered, all that this process prints goes above the line, and is never mixed with it.

    Nothing is shown, and nothing is done to what is printed, where standard output or standard error is no terminal.
    """

    def __init__(self) -> None:
        # By name: while the line is shown, these are ours.
        self._out, self._err = sys.stdout, sys.stderr
        self._console = Console(file=self._err, highlight=False)
        self._lock = threading.RLock()
        self._text, self._drawn, self._within_line = Text(), False, False
        self.shown = self._out.isatty() and self._err.isatty() and not self._console.is_dumb_terminal
        self._above = _Above(self, self._out), _Above(self, self._err)

    def __enter__(self) -> Self:
        if self.shown:
            sys.stdout, sys.stderr = self._above
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.show(Text())
            sys.stdout, sys.stderr = self._out, self._err
            for above in self._above:
                above.release()

    def show(self, text: Text) -> None:
        """Have the line say this; empty: have none."""
        if self.shown:
            with self._lock:
                self._text = text
                self._erase()
                self._draw()

    def print(self, stream: TextIO, text: str) -> None:
        """Print above the line; it waits below while a line that is printed has no end yet."""
        with self._lock:
            self._erase()
            stream.write(text)
            stream.flush()
            self._within_line = not text.endswith("\n")
            self._draw()

    def _erase(self) -> None:
        if self._drawn:
            self._err.write(_ERASE)
            self._err.flush()
            self._drawn = False

    def _draw(self) -> None:
        if self._within_line or not self._text:
            return
        text = self._text.copy()
        # The last column stays free: a line that reaches it is two lines to some terminals.
        text.truncate(self._columns() - 1, overflow="ellipsis")
        with self._console.capture() as drawn:
            self._console.print(text, end="", soft_wrap=True)
        self._err.write(drawn.get())
        self._err.flush()
        self._drawn = True

    def _columns(self) -> int:
        # Some terminals do not say how wide they are.
        return os.get_terminal_size(self._err.fileno()).columns or _COLUMNS


class _Above:
    """Standard output or standard error while there is a status line; in all but printing it is the stream itself.

    As such a stream on a terminal it shows a line when it ends or when it is flushed, but each thread has lines of its
    own: `print` writes the end of a line by itself, and what another thread has to tell would stand between.
    """

    def __init__(self, line: StatusLine, stream: TextIO) -> None:
        self._line, self._stream = line, stream
        self._begun: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Print above the line what now ends; hold back what follows."""
        thread = threading.get_ident()
        whole, end, begun = (self._begun.pop(thread, "") + text).rpartition("\n")
        if len(begun) > _HELD:
            whole, end, begun = whole + end + begun, "", ""
        if begun:
            self._begun[thread] = begun
        if whole or end:
            self._line.print(self._stream, whole + end)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """The same for several."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Print what this thread has begun."""
        self._print(threading.get_ident())

    def release(self) -> None:
        """Print what any thread has begun."""
        for thread in list(self._begun):
            self._print(thread)

    def _print(self, thread: int) -> None:
        if begun := self._begun.pop(thread, ""):
            self._line.print(self._stream, begun)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
