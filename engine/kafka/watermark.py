"""How far a partition is finished: everything below one offset, and spans above it. Pure, without a client.

A slow request must not hold up its neighbours' commit. So what is finished above the first unfinished record stands
beside the committed offset, in the metadata that Kafka keeps with it, and whoever has the partition next does not run
it again. The metadata also names the instance that committed, so that a successor knows whose transaction may be open.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import NewerFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# Brokers take 4,096 bytes beside an offset unless they are told otherwise (`offset.metadata.max.bytes`); the rest of it
# is for the committer's name.
MOST_METADATA = 4096
MOST_SPANS = 3900

# With more than this in use, nothing new is taken until some of what is unfinished has ended: each request in flight
# may split a span.
CROWDED_SPANS = MOST_SPANS // 2

# Each unfinished request makes one span of each kind at most, of five letters at most together unless it is very long.
_SURELY_FIT = MOST_SPANS // 20

# What comes before the first semicolon, in every release.
_FORMAT = "1"
_FORM = re.compile("[0-9]{1,9}")
_NUMBER = re.compile("[0-9a-f]{1,16}")


class Standing(NamedTuple):
    """What stands beside a committed offset.

    committer   the instance whose transactions may have moved it; empty when unknown
    spans       lengths, from the offset on: unfinished, finished, unfinished, finished, …
    number      by which its committer knows what came later
    """

    committer: str = ""
    spans: tuple[int, ...] = ()
    number: int = 0

    def encode(self) -> str:
        """The metadata of an offset."""
        return f"{_FORMAT};{self.committer};{self.number:x};{_encode(self.spans)}"

    @classmethod
    def of_nobody(cls, spans: tuple[int, ...]) -> Standing:
        """What stands beside an offset that no transaction moves."""
        return cls(spans=spans)

    def follows(self, earlier: Standing) -> bool:
        """Whether `earlier` is not to come to this place any more: it stands there, or what came later.

        Another committer has waited until its transactions had ended.
        """
        return self.committer != earlier.committer or self.number >= earlier.number

    @classmethod
    def parse(cls, metadata: str | None) -> Standing:
        """What a metadata says; nothing of what others may have written there.

        Raises NewerFormat for what a newer release wrote.
        """
        form, *parts = (metadata or "").split(";")
        if parts and _FORM.fullmatch(form) and int(form) > int(_FORMAT):
            raise NewerFormat("the group's offsets", int(form), int(_FORMAT))
        if form != _FORMAT or len(parts) != len(cls._fields):
            return cls()
        spans = _decode(parts[2])
        if spans is None or not _NUMBER.fullmatch(parts[1]):
            return cls()
        return cls(parts[0], spans, int(parts[1], 16))


def _encode(lengths: Iterable[int]) -> str:
    """Numbers in sevens of bits, the lowest first, as letters."""
    found = bytearray()
    for length in lengths:
        left = length
        while left > 0x7F:  # noqa: PLR2004  seven bits
            found.append(left & 0x7F | 0x80)
            left >>= 7
        found.append(left)
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode()


def _decode(text: str) -> tuple[int, ...] | None:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    lengths, length, shift = [], 0, 0
    for byte in raw:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004  the last of a number
            lengths.append(length)
            length = shift = 0
    # They come in pairs of unfinished and finished.
    return None if shift or len(lengths) % 2 else tuple(lengths)


class Watermark:
    """What of a partition is finished, though requests finish in any order.

    `spans` are those that stood beside the offset it starts at.
    """

    def __init__(self, start: int, spans: Sequence[int] = ()) -> None:
        # Taken offsets in their order, and those of them that are unfinished, each with its number: numbers that
        # follow each other have nothing finished between them.
        self._taken: deque[int] = deque()
        self._open: dict[int, int] = {}
        self._number = 0
        self._last = -1
        self._next = start
        # Unfinished stretches that an earlier owner left, and how many of them end before what was taken last.
        self._left = list(_unfinished(start, spans))
        self._left_high = start + sum(spans)
        self._passed = -1
        self._high = self._left_high
        self.crowded = False

    @property
    def offset(self) -> int:
        """The offset to commit: the first that is not finished, or the next to read."""
        return self._taken[0] if self._taken else self._next

    @property
    def unfinished(self) -> int:
        """How many of those that were taken are being worked on."""
        return len(self._open)

    @property
    def idle(self) -> bool:
        """Whether nothing that was taken is unfinished."""
        return not self._open

    @property
    def behind(self) -> bool:
        """Whether what is read now may have been finished by an earlier owner."""
        return self._next < self._left_high

    def done(self, offset: int) -> bool:
        """Whether an earlier owner has finished this offset."""
        return offset < self._left_high and not any(start <= offset < end for start, end in self._left)

    def take(self, offsets: Iterable[int], following: int) -> None:
        """These offsets, ascending, are being worked on; those between them are nobody's. `following` is read next."""
        for offset in offsets:
            self._number += 1
            if self._passed < len(self._left):
                self._pass(offset)
            self._open[offset] = self._number
            self._taken.append(offset)
            self._last = offset
        self._next = following

    def _pass(self, offset: int) -> None:
        """What earlier owners finished lies between their unfinished stretches: numbers must not run over it."""
        stretch = sum(end <= offset for _, end in self._left)
        if stretch != self._passed:
            self._passed = stretch
            self._number += 1

    def finish(self, offsets: Sequence[int]) -> list[int]:
        """These taken offsets are finished, but for those returned: there is no room yet to say so of them."""
        refused: list[int] = []
        # What an earlier owner left takes room too.
        if self.crowded or self.behind or len(self._open) > _SURELY_FIT:
            offsets, refused = self._admit(sorted(offsets))
        for offset in offsets:
            del self._open[offset]
        self._high = max(self._high, max(offsets, default=-1) + 1)
        while self._taken and self._taken[0] not in self._open:
            self._taken.popleft()
        return refused

    def spans(self) -> tuple[int, ...]:
        """What is finished above the offset, for the metadata beside it."""
        found = self._spans(self._open, self._high)
        self.crowded = len(_encode(found)) > CROWDED_SPANS
        return found

    def _admit(self, offsets: list[int]) -> tuple[list[int], list[int]]:
        """As many of these as there is room for, the lowest first."""

        def fits(count: int) -> bool:
            closing = set(offsets[:count])
            left = {offset: number for offset, number in self._open.items() if offset not in closing}
            high = max(self._high, offsets[count - 1] + 1)
            return len(_encode(self._spans(left, high))) <= MOST_SPANS

        count = _most(len(offsets), fits)
        return offsets[:count], offsets[count:]

    def _spans(self, unfinished: dict[int, int], high: int) -> tuple[int, ...]:
        at = next(iter(unfinished), self._next)
        lengths: list[int] = []
        for first, end in itertools.chain(_stretches(unfinished, high), self._unread(unfinished, high)):
            start = max(first, at)
            if lengths and start == at:
                lengths[-1] += end - start  # one goes on where the other ended
                at = end
                continue
            if start > at:
                lengths += [start - at] if lengths else [0, start - at]
            lengths.append(end - start)
            at = end
        if at < high:
            lengths += [high - at] if lengths else [0, high - at]
        elif lengths:
            lengths.pop()  # nothing finished lies above the last stretch
        return tuple(lengths)

    def _unread(self, unfinished: dict[int, int], high: int) -> Iterator[tuple[int, int]]:
        """The unfinished stretches of earlier owners that were not read to their end."""
        for first, end in self._left:
            if end <= self._next or first >= high:
                continue
            if self._last < first:
                yield first, end
            else:  # what lies behind the last of ours that was read is nobody's, and splits nothing
                yield self._last + 1 if self._last in unfinished else self._next, end


def _unfinished(start: int, spans: Sequence[int]) -> Iterator[tuple[int, int]]:
    at = start
    for unfinished, finished in zip(spans[::2], spans[1::2], strict=True):
        if unfinished:
            yield at, at + unfinished
        at += unfinished + finished


def _stretches(unfinished: dict[int, int], high: int) -> Iterator[tuple[int, int]]:
    """The first offset of each stretch of unfinished ones with nothing finished between, and the one after its last."""
    first = last = number = -1
    for offset, its_number in unfinished.items():
        if offset >= high:
            break
        if its_number != number + 1:
            if first >= 0:
                yield first, last + 1
            first = offset
        last, number = offset, its_number
    if first >= 0:
        yield first, last + 1


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `count` that fits; none fits at least."""
    # Nearly always all do, and each look costs as much as what it looks at.
    if not count or fits(count):
        return count
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
