"""YAML text as plain data in which every value and every key knows its place.

Built on the parser's events and not on its nodes: composing nodes recurses in C as deep as the text says and
follows aliases, and both are to be refused before they cost anything. Plain scalars are read by the core
schema of YAML 1.2, of which JSON is a part: `no` is a text, `010` is ten, and what `to_json` writes is read
back as it was.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import yaml

from engine.resources.problems import (
    Findings,
    Place,
    Problem,
    TooManyProblems,
    did_you_mean,
    nearest,
    quoted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "Document",
    "Findings",
    "KeyPath",
    "Place",
    "Plain",
    "Problem",
    "TooManyProblems",
    "did_you_mean",
    "documents",
    "nearest",
    "quoted",
    "read",
]

Plain: TypeAlias = "dict[str, Plain] | list[Plain] | str | int | float | bool | None"
KeyPath: TypeAlias = tuple[str | int, ...]

# Bounds far above any real resource file; without them a small file could hold a process for minutes.
MOST_BYTES = 1 << 20
MOST_DOCUMENTS = 1000
MOST_VALUES = 50_000
DEEPEST = 50

# A key over 1024 characters cannot be written as JSON that YAML reads back.
_LONGEST_KEY = 1000

# The parser in C is about ten times as fast; some platforms have no wheel with it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

# Integers are 64 bits wide in Kubernetes; 22 characters also hold the octal form.
_INTEGERS = range(-(1 << 63), 1 << 63)
_LONGEST_INTEGER = 24


class _Mark(NamedTuple):
    line: int
    column: int
    width: int


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a value stands, with the places of what it holds: the shape of the data, without the data."""

    mark: _Mark
    children: Mapping[str | int, _Spot] = field(default_factory=dict)
    keys: Mapping[str | int, _Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Document:
    """One YAML document: its plain data, and the place of everything in it.

    A path is a tuple of keys and indexes such as ("spec", "steps", 1, "inputs", 0). A path that leads to
    nothing has the place of the last thing on its way, so a missing field is told where it is missing.
    """

    file: str
    data: Plain
    _root: _Spot
    _lines: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Document({str(self.place(()))!r})"

    def place(self, path: KeyPath) -> Place:
        """Where the value at `path` begins; for a quoted text, its first character inside the quotes."""
        return self._place(self._spot(path).mark)

    def key_place(self, path: KeyPath) -> Place:
        """Where the key at the end of `path` begins; the value's place when it stands in a list."""
        return self._place(self._key(path))

    def problem(
        self, path: KeyPath, message: str, hint: str = "", offset: int = 0, *, width: int | None = None
    ) -> Problem:
        """A problem with the value at `path`, `offset` characters into it and `width` characters long."""
        mark = self._spot(path).mark
        rest = mark.width - offset if width is None else width
        return self._problem(_Mark(mark.line, mark.column + offset, rest), message, hint)

    def key_problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        """A problem with the key at the end of `path`."""
        return self._problem(self._key(path), message, hint)

    def _spot(self, path: KeyPath) -> _Spot:
        spot = self._root
        for part in path:
            if part not in spot.children:
                break
            spot = spot.children[part]
        return spot

    def _key(self, path: KeyPath) -> _Mark:
        spot, mark = self._root, self._root.mark
        for part in path:
            if part not in spot.children:
                break
            child = spot.children[part]
            spot, mark = child, spot.keys.get(part, child.mark)
        return mark

    def _place(self, mark: _Mark) -> Place:
        return Place(self.file, mark.line, mark.column)

    def _problem(self, mark: _Mark, message: str, hint: str) -> Problem:
        return Problem(self._place(mark), message, hint, _line(self._lines, mark.line), max(1, mark.width))


def documents(text: str | bytes, file: str) -> tuple[list[Document], list[Problem]]:
    """The documents of a YAML (or JSON) text, and what is wrong with it as YAML.

    Never raises: whatever the text is, it gives documents or Problems. Empty documents are passed over, and
    so is a document with a problem of its own; `file` is the name to tell in places.
    """
    if len(text) > MOST_BYTES:  # before anything is done for each character
        return [], [_oversized(file)]
    if isinstance(text, bytes):
        try:
            return documents(text.decode(), file)
        except UnicodeDecodeError as error:
            return [], [_not_utf8(text, error.start, file)]
    reading = _Reading(text.removeprefix("\ufeff"), file)
    with suppress(TooManyProblems):
        reading.run()
    return reading.found, list(reading.findings)


def read(path: Path) -> bytes:
    """What a file holds, cut where it is too long for `documents` to take; raises OSError."""
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _oversized(file: str) -> Problem:
    return Problem(Place(file, 1, 1), "the text is larger than 1 MB", "put the resources in several files")


def _not_utf8(raw: bytes, offset: int, file: str) -> Problem:
    before = raw[:offset].decode()
    place = _place_of(before, len(before), file)
    return Problem(place, f"byte 0x{raw[offset]:02x} is not valid UTF-8", "save the file as UTF-8")


def _place_of(text: str, offset: int, file: str) -> Place:
    before = _LINE_END.split(text[:offset])
    return Place(file, len(before), len(before[-1]) + 1)


def _line(lines: tuple[str, ...], number: int) -> str:
    return lines[number - 1] if number <= len(lines) else ""


class _NotAValue(ValueError):
    pass


def _resolve(text: str) -> str | float | bool | None:
    """A plain scalar's value by the core schema of YAML 1.2; raises _NotAValue for numbers out of range."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        raise _NotAValue(f"{quoted(text)} is not a finite number")
    return text


def _integer(text: str) -> int:
    if len(text) <= _LONGEST_INTEGER:
        number = int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        if number in _INTEGERS:
            return number
    raise _NotAValue(f"{quoted(text)} does not fit into 64 bits")


class _Reading:
    """One pass over the events of a text; `found` holds the sound documents, `findings` what is wrong."""

    def __init__(self, text: str, file: str) -> None:
        self.found: list[Document] = []
        self.findings = Findings()
        self._text = text
        self._file = file
        self._lines = tuple(_LINE_END.split(text))
        self._events = yaml.parse(text, Loader=_Loader)
        self._values = 0

    def run(self) -> None:
        """Read to the end, or to where the text cannot be read on; raises TooManyProblems."""
        if unprintable := _UNPRINTABLE.search(self._text):
            self._refuse_character(unprintable.start())
            return
        try:
            self._documents()
        except yaml.MarkedYAMLError as error:
            self._refuse_syntax(error)
        except yaml.YAMLError as error:
            self.findings.add(Problem(Place(self._file, 1, 1), f"not valid YAML: {error}"))

    def _documents(self) -> None:
        count = 0
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            count += 1
            if count > MOST_DOCUMENTS:
                self._give_up(event, f"more than {MOST_DOCUMENTS} documents in one text")
            faults = len(self.findings)
            data, spot = self._value(next(self._events), depth=0)
            if data is not None and len(self.findings) == faults:
                self.found.append(Document(self._file, data, spot, self._lines))

    def _value(self, event: yaml.Event, depth: int) -> tuple[Plain, _Spot]:
        self._values += 1
        if self._values > MOST_VALUES:
            self._give_up(event, f"more than {MOST_VALUES} values in one text")
        if depth > DEEPEST:
            self._give_up(event, f"nested deeper than {DEEPEST} levels")
        self._refuse_anchor_and_tag(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, depth)
        return self._scalar(event), _Spot(_mark(event))

    def _scalar(self, event: yaml.Event) -> Plain:
        if not isinstance(event, yaml.ScalarEvent):
            return None  # an alias, already refused
        is_plain = event.implicit[0]
        if not is_plain:
            return str(event.value)
        try:
            return _resolve(event.value)
        except _NotAValue as error:
            self._refuse(event, str(error), "put it in quotes if it is a text")
            return None

    def _sequence(self, start: yaml.Event, depth: int) -> tuple[Plain, _Spot]:
        items: list[Plain] = []
        children: dict[str | int, _Spot] = {}
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item, children[len(items)] = self._value(event, depth + 1)
            items.append(item)
        return items, _Spot(_mark(start), children)

    def _mapping(self, start: yaml.Event, depth: int) -> tuple[Plain, _Spot]:
        entries: dict[str, Plain] = {}
        children: dict[str | int, _Spot] = {}
        keys: dict[str | int, _Mark] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, depth, entries)
            value, spot = self._value(next(self._events), depth + 1)
            if key is not None:
                entries[key], children[key], keys[key] = value, spot, _mark(event)
        return entries, _Spot(_mark(start), children, keys)

    def _key(self, event: yaml.Event, depth: int, entries: Mapping[str, Plain]) -> str | None:
        """The key that begins with this event, or None when it is refused."""
        key, _ = self._value(event, depth + 1)
        if not isinstance(key, str):
            if not isinstance(event, yaml.AliasEvent):
                self._refuse(event, "a key must be a text", "put it in quotes" if _is_scalar(event) else "")
        elif key in entries:
            self._refuse(event, f"key {quoted(key)} is written twice in one mapping")
        elif len(json.dumps(key)) > _LONGEST_KEY:
            self._refuse(event, f"key {quoted(key)} is too long")
        else:
            return key
        return None

    def _refuse_anchor_and_tag(self, event: yaml.Event) -> None:
        if getattr(event, "anchor", None) is not None:  # an alias names its anchor, so it has one as well
            self._refuse(event, "anchors and aliases are not supported", "write the value out")
        if (tag := getattr(event, "tag", None)) is not None:
            hint = "put the value in quotes to make it a text" if _is_scalar(event) else ""
            self._refuse(event, f"tags are not supported, here {quoted(_short_tag(tag))}", hint)

    def _refuse(self, event: yaml.Event, message: str, hint: str = "") -> None:
        mark = _mark(event)
        excerpt = _line(self._lines, mark.line)
        place = Place(self._file, mark.line, mark.column)
        self.findings.add(Problem(place, message, hint, excerpt, max(1, mark.width)))

    def _give_up(self, event: yaml.Event, message: str) -> None:
        self._refuse(event, message, "the rest of the text was not read")
        raise TooManyProblems

    def _refuse_character(self, offset: int) -> None:
        place = _place_of(self._text, offset, self._file)
        message = f"character U+{ord(self._text[offset]):04X} is not allowed in YAML"
        self.findings.add(Problem(place, message, excerpt=_line(self._lines, place.line)))

    def _refuse_syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        place = Place(self._file, line, column)
        problem = Problem(place, f"not valid YAML: {_told(error)}", excerpt=_line(self._lines, line))
        self.findings.add(problem)


def _told(error: yaml.MarkedYAMLError) -> str:
    """What the parser says, with the line where the thing began that it could not finish."""
    if not error.context:
        return str(error.problem)
    begin = f" that begins on line {error.context_mark.line + 1}" if error.context_mark else ""
    return f"{error.problem} {error.context}{begin}"


def _is_scalar(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent)


def _short_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!", 1)


def _mark(event: yaml.Event) -> _Mark:
    """Where an event's text stands; for what spans lines, or is no scalar, only where it begins."""
    start, end = event.start_mark, event.end_mark
    assert start is not None
    assert end is not None
    line, column = start.line + 1, start.column + 1
    if not _is_scalar(event) or end.line != start.line:
        return _Mark(line, column, 1)
    quotes = 1 if getattr(event, "style", None) in ("'", '"') else 0
    return _Mark(line, column + quotes, end.column - start.column - 2 * quotes)
