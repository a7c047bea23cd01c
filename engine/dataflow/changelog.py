"""How what a join by key waits for is written to its changelog, and read back.

One record for each entry, keyed by the entry's number, a space and the records' key; null when the entry is gone.
Its value is the length of a head (four bytes, big-endian), the head as JSON, and the bytes that the head tells the
lengths of, one after the other:

    {"format": 1, "opened": 17.25, "low": 17.0, "high": 17.25, "closed": false,
     "sources": {"sums.outputs": [[["x-any", 1], ["x-none", null]], [[["data", ["SUM"], [], 0], 204]]]}}

A source that has come has its headers (name and length of the value; null for a null) and its parts (what was taken,
and its length). What was taken is data or trigger, tensors, renames, and how many equal ones stand before it: another
version of the pipeline finds its place by that, wherever the reference stands there.

Each record also tells a position: for each source by name the last offset that is accounted for and the latest
timestamp. It names all sources, since compaction takes away what earlier records of the same entry told.

Whatever else changes, an entry says its format in the head, and a position that is not of the first format says
`"format": N` among the sources, none of which can have that name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from engine.errors import NewerFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.dataflow.external import Upstream
    from engine.protocol.record import Headers

FORMAT = 1

_LENGTH = struct.Struct(">I")

# Digits of an entry's number: Python refuses to read numbers of thousands, and anybody may write to a topic.
_MOST_DIGITS = 19


@dataclass(slots=True, eq=False)
class Entry:
    """Records of one key that belong together, at most one of each source.

    opened   the timestamp of the record that came first
    low      the earliest timestamp of its records
    high     the latest
    headers  of each source; None: it has not come
    parts    what each edge and, after them, each trigger took; nothing when closed
    closed   it was made a request, or can never become one: it only takes the records that would have belonged to it
    arrived  when it was opened, or read back, by the clock
    """

    number: int
    key: bytes
    opened: float
    low: float
    high: float
    headers: list[Headers | None]
    parts: list[bytes | None]
    closed: bool = False
    arrived: float = 0.0

    def close(self) -> None:
        """Drop what it holds, and keep which sources have come."""
        self.closed, self.parts = True, [None] * len(self.parts)
        self.headers = [None if pairs is None else () for pairs in self.headers]

    @property
    def complete(self) -> bool:
        """Whether every source has come."""
        return None not in self.headers


class Changelog:
    """The codec of one pipeline's changelog.

    What is read may be of another version of the pipeline, or of anybody: what cannot be used is a ValueError, and what
    a newer release wrote a NewerFormat.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._names = [str(source) for source in upstream.sources]
        self._indices = {name: index for index, name in enumerate(self._names)}
        edges = (*upstream.edges, *upstream.triggers)
        self._of = [[at for at, edge in enumerate(edges) if edge.source == index] for index in range(len(self._names))]
        self._taken: list[list[Any]] = []
        self._places: dict[tuple[int, bytes], int] = {}
        for position, edge in enumerate(edges):
            kind = "data" if position < len(upstream.edges) else "trigger"
            equal = 0
            while (edge.source, orjson.dumps(taken := [kind, edge.tensors, edge.renames, equal])) in self._places:
                equal += 1
            self._taken.append(taken)
            self._places[edge.source, orjson.dumps(taken)] = position

    def key(self, entry: Entry) -> bytes:
        """The key of an entry's records."""
        return b"%d %b" % (entry.number, entry.key)

    def value(self, entry: Entry) -> bytes:
        """An entry as it is written."""
        sources: dict[str, Any] = {}
        raw: list[bytes] = []
        for source, headers in enumerate(entry.headers):
            if headers is None:
                continue
            parts = [(at, part) for at in self._of[source] if (part := entry.parts[at]) is not None]
            sources[self._names[source]] = (
                [(name, None if value is None else len(value)) for name, value in headers],
                [(self._taken[at], len(part)) for at, part in parts],
            )
            raw += [value for _, value in headers if value is not None]
            raw += [part for _, part in parts]
        head = orjson.dumps(
            {
                "format": FORMAT,
                "opened": entry.opened,
                "low": entry.low,
                "high": entry.high,
                "closed": entry.closed,
                "sources": sources,
            }
        )
        return b"".join((_LENGTH.pack(len(head)), head, *raw))

    def position(self, offsets: Sequence[int], latest: Sequence[float]) -> bytes:
        """How far each source is accounted for; nothing of a source that nothing came of."""
        pairs = zip(self._names, offsets, latest, strict=True)
        return orjson.dumps({name: (offset, at) for name, offset, at in pairs if offset >= 0})

    def read_key(self, key: bytes) -> tuple[int, bytes]:
        """The number of an entry and the key of its records."""
        digits, space, rest = key.partition(b" ")
        if not space or not digits.isdigit() or len(digits) > _MOST_DIGITS:
            raise ValueError(f"{key[:40]!r} is no key of an entry")
        return int(digits), rest

    def read_value(self, number: int, key: bytes, value: bytes) -> Entry:
        """An entry that was written."""
        try:
            (length,) = _LENGTH.unpack_from(value)
            start = _LENGTH.size + length
            head = orjson.loads(value[_LENGTH.size : start])
            _check(head["format"])
            opened, low, high = (_time(head[name]) for name in ("opened", "low", "high"))
            entry = Entry(number, key, opened, low, high, [None] * len(self._names), [None] * len(self._taken))
            self._fill(entry, head["sources"], _Raw(value, start))
            if head["closed"]:
                entry.close()
        except (struct.error, KeyError, TypeError, AttributeError) as error:
            raise ValueError("no entry of a join") from error
        return entry

    def read_position(self, position: bytes) -> list[tuple[int, int, float]]:
        """The sources, offsets and latest timestamps that a position tells, of the sources that are read now."""
        told = orjson.loads(position)
        if not isinstance(told, dict):
            raise ValueError("no position of a join")  # noqa: TRY004 - a fault of what was read, as all here
        _check(told.pop("format", FORMAT))
        found = []
        for name, pair in told.items():
            if name in self._indices:
                match pair:
                    case [int(offset), int() | float() as latest]:
                        found.append((self._indices[name], offset, float(latest)))
                    case _:
                        raise ValueError(f"no position of {name}")
        return found

    def _fill(self, entry: Entry, sources: Mapping[str, Any], raw: _Raw) -> None:
        for name, (headers, parts) in sources.items():
            source = self._indices.get(name)
            if source is None:
                raise ValueError(f"an entry of {name}, which is not read any more")
            entry.headers[source] = tuple(
                (str(title), None if length is None else raw.take(length)) for title, length in headers
            )
            for taken, length in parts:
                position = self._places.get((source, orjson.dumps(taken)))
                if position is None:
                    raise ValueError(f"an entry with something of {name} that is not read any more")
                entry.parts[position] = raw.take(length)
        raw.end()


class _Raw:
    """The bytes after a head, taken one length after the other."""

    def __init__(self, value: bytes, start: int) -> None:
        self._value, self._at = value, start

    def take(self, length: int) -> bytes:
        end = self._at + length
        if not self._at <= end <= len(self._value):
            raise ValueError("an entry that is cut off")
        taken, self._at = self._value[self._at : end], end
        return taken

    def end(self) -> None:
        if self._at != len(self._value):
            raise ValueError("an entry with more than it tells of")


def _check(written: object) -> None:
    if isinstance(written, int) and written > FORMAT:
        raise NewerFormat("the entries of its join", written, FORMAT)
    if written != FORMAT:
        raise ValueError(f"format {written}, not {FORMAT}")


def _time(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)
