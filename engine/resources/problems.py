"""Faults in resource files, each with its place, and the words to tell them with."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Nobody mends more than a screenful at a time, and a hostile file must not cost a minute of searching hints.
MOST_PROBLEMS = 100

# difflib takes quadratic time; no name is longer than this.
_LONGEST_GUESS = 64

_LONGEST_QUOTE = 80
_EXCERPT_WIDTH = 120
_EXCERPT_LEAD = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a resource file; as text it shows the line and marks the spot.

    >>> print(Problem(Place("a.yaml", 14, 3), "no such step", 'did you mean "b"?', "- bb", 2))
    a.yaml:14:3: no such step
       14 | - bb
          |   ^^ did you mean "b"?
    """

    place: Place
    message: str
    hint: str = ""
    excerpt: str = ""
    width: int = 1

    @property
    def line(self) -> str:
        """It as one line of text."""
        return f"{self.place}: {self.message}{f' ({self.hint})' if self.hint else ''}"

    def __str__(self) -> str:
        if not self.excerpt:
            return self.line
        headline = f"{self.place}: {self.message}"
        text, column = _window(self.excerpt, self.place.column)
        carets = "^" * max(1, min(self.width, len(text) - column + 1))
        marker = f"{' ' * (column - 1)}{carets} {self.hint}".rstrip()
        return f"{headline}\n{self.place.line:>5} | {text}\n      | {marker}"


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of a line around a column that fits a screen, and the column within that part."""
    start = max(0, column - 1 - _EXCERPT_LEAD) if len(line) > _EXCERPT_WIDTH else 0
    part = line[start : start + _EXCERPT_WIDTH]
    # A tab or an escape sequence would move the marker away from what it marks.
    shown = "".join(character if character.isprintable() else " " for character in part)
    return shown.rstrip(), column - start


class TooManyProblems(Exception):
    """Enough problems were found: reading on would help nobody."""


class Findings:
    """The problems found so far in one reading.

    `add` raises TooManyProblems with the last that is taken, so no input can make a reading endless.
    """

    __slots__ = ("_problems",)

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Take one problem in."""
        self._problems.append(problem)
        if len(self._problems) >= MOST_PROBLEMS:
            raise TooManyProblems

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that the writer of `word` most likely meant, or None when nothing is near.

    >>> nearest("featurz", ["scores", "features"])
    'features'
    """
    if len(word) > _LONGEST_GUESS:
        return None
    return next(iter(difflib.get_close_matches(word, list(candidates), n=1)), None)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """The hint that names the nearest candidate; empty when nothing is near."""
    near = nearest(word, candidates)
    return f"did you mean {quoted(near)}?" if near else ""


def quoted(text: str) -> str:
    r"""The text in double quotes, on one line and short enough for a message.

    >>> print(quoted("two\nlines"))
    "two\nlines"
    """
    short = text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 1]}…"
    shown = (character if character.isprintable() else _escaped(character) for character in short)
    return f'"{"".join(shown)}"'


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
