"""Calls of one step that wait for each other and are made as one: the rows of several requests, one after another.

Calls in, calls out; no I/O, and the clock is passed in. Rows are counted, not requests: a tensor's first dimension says
how many a request has. What cannot stand in one call waits apart, and what cannot be shared out again does not wait.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from engine.protocol import columns as col

if TYPE_CHECKING:
    from engine.dataflow.gather import Call
    from engine.protocol.columns import Columns, Layout


@dataclass(frozen=True, slots=True)
class Shared:
    """One call for several requests.

    calls   what it stands for, in the order of arrival; each has one or more of the requests
    """

    calls: tuple[Call, ...]

    @property
    def columns(self) -> Columns:
        """All rows of all requests as those of one."""
        return col.stack([call.columns for call in self.calls])

    def split(self, answer: Columns) -> list[Columns]:
        """What each of the calls gets of the answer; ModelFailed when that cannot be told."""
        return col.share_out(answer, [call.columns for call in self.calls], "in a batch")


# What is to be called now: a call as it was offered, for each of its requests by itself, or one for all of them.
Ready: TypeAlias = "Call | Shared"


@dataclass(slots=True)
class _Batch:
    """Calls that wait together, until they have enough rows or (in the clock's seconds) until they are due."""

    due: float
    calls: list[Call] = field(default_factory=list)
    rows: int = 0


class Batches:
    """What waits at one step.

    size     rows of one call at most, but for a request that has more by itself; None: as many as come in time
    window   seconds that a batch waits after its first call
    """

    def __init__(self, size: int | None, window: float) -> None:
        self._size, self._window = size or sys.maxsize, window
        # The oldest first, which is the first to be due.
        self._waiting: dict[Layout, _Batch] = {}

    @property
    def due(self) -> float | None:
        """When `expire` is worth a call; None while nothing waits."""
        return next((batch.due for batch in self._waiting.values()), None)

    def offer(self, call: Call, now: float) -> list[Ready]:
        """A call is to be made: what is to be called now, perhaps with parts of it, perhaps nothing yet."""
        signature = col.layout(call.columns)
        if signature is None:
            return [call]
        rows = call.columns.specs[0].shape[0]
        if rows >= self._size:
            return [*self._end(signature), call]
        ready: list[Ready] = []
        start, count = 0, len(call.requests)
        while start < count:
            batch = self._waiting.setdefault(signature, _Batch(now + self._window))
            stop = min(count, start + (self._size - batch.rows) // rows)
            if stop > start:
                batch.calls.append(_part(call, start, stop))
                batch.rows += rows * (stop - start)
            if stop < count or batch.rows == self._size:
                ready += self._end(signature)
            start = stop
        return ready

    def expire(self, now: float) -> list[Ready]:
        """What has waited for its time."""
        late = [signature for signature, batch in self._waiting.items() if batch.due <= now]
        return [ready for signature in late for ready in self._end(signature)]

    def flush(self) -> list[Ready]:
        """Everything that waits."""
        return [ready for signature in list(self._waiting) for ready in self._end(signature)]

    def _end(self, signature: Layout) -> list[Ready]:
        batch = self._waiting.pop(signature, None)
        if batch is None:
            return []
        calls = _together(batch.calls)
        alone = len(calls) == 1 and len(calls[0].requests) == 1
        return [calls[0] if alone else Shared(calls)]


def _part(call: Call, start: int, stop: int) -> Call:
    if stop - start == len(call.requests):
        return call
    return replace(call, requests=call.requests[start:stop], columns=call.columns.take(range(start, stop)))


def _together(calls: list[Call]) -> tuple[Call, ...]:
    """Neighbours whose requests have equally many rows as one call: the fewer calls, the fewer batches follow."""
    found: list[Call] = []
    for _, group in groupby(calls, key=lambda call: (call.round, call.columns.specs)):
        alike = list(group)
        requests = [request for call in alike for request in call.requests]
        columns = col.concatenate([call.columns for call in alike])
        found.append(replace(alike[0], requests=requests, columns=columns))
    return tuple(found)
