"""Which requests that wait for a model are stacked into one call, and when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from engine.protocol.columns import Layout

Call = TypeVar("Call")

# Which rows of which calls are made together.
Stack: TypeAlias = "list[tuple[Call, range]]"


class _Waiting(NamedTuple, Generic[Call]):
    """Successive rows of a call that wait since a time; `each` is how many rows of a stack one of them takes."""

    call: Call
    rows: range
    each: int
    since: float


@dataclass(slots=True)
class _Line(Generic[Call]):
    """What waits and may be stacked together, in the order it came."""

    waiting: deque[_Waiting[Call]] = field(default_factory=deque)
    length: int = 0


class Stacks(Generic[Call]):
    """Rows of calls that wait, and the stacks that are made of them.

    max_rows  along the first dimension of one stack; a request that alone has more is a stack of its own
    delay     seconds that a stack which is not full waits for more rows
    """

    def __init__(self, max_rows: int, delay: float) -> None:
        self._max_rows, self._delay = max_rows, delay
        self._lines: dict[Layout, _Line[Call]] = {}

    def offer(self, call: Call, rows: range, each: int, layout: Layout, now: float) -> None:
        """Let rows of a call wait."""
        line = self._lines.setdefault(layout, _Line())
        line.waiting.append(_Waiting(call, rows, each, now))
        line.length += len(rows) * each

    def take(self, now: float) -> Stack[Call] | None:
        """The rows of the next stack; of those that are full or have waited, what came first. None when none is due."""
        due = [(line.waiting[0].since, key) for key, line in self._lines.items() if self._due(line) <= now]
        if not due:
            return None
        _, key = min(due, key=lambda found: found[0])
        line = self._lines[key]
        stack = self._fill(line)
        if not line.waiting:
            del self._lines[key]
        return stack

    @property
    def due(self) -> float | None:
        """When the next stack is due; None when nothing waits."""
        return min(map(self._due, self._lines.values()), default=None)

    def drop(self, call: Call) -> None:
        """Let nothing of a call wait any longer."""
        for key, line in list(self._lines.items()):
            kept: deque[_Waiting[Call]] = deque()
            for waiting in line.waiting:
                if waiting.call == call:
                    line.length -= len(waiting.rows) * waiting.each
                else:
                    kept.append(waiting)
            line.waiting = kept
            if not kept:
                del self._lines[key]

    def _due(self, line: _Line[Call]) -> float:
        first = line.waiting[0].since
        return first if line.length >= self._max_rows else first + self._delay

    def _fill(self, line: _Line[Call]) -> Stack[Call]:
        stack: Stack[Call] = []
        room = self._max_rows
        while line.waiting:
            call, rows, each, since = line.waiting[0]
            count = min(len(rows), max(room, 0) // each)
            if not count:
                if stack:
                    break
                count = 1
            stack.append((call, rows[:count]))
            room -= count * each
            line.length -= count * each
            if count < len(rows):
                line.waiting[0] = _Waiting(call, rows[count:], each, since)
                break
            line.waiting.popleft()
        return stack
