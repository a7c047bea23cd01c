"""The latest requests of a pipeline, and all records of one of them, read off the topics as `inspect` does.

So they are there whoever sent them, by whichever gateway or by Kafka, and while nobody looks they cost nothing.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import Overloaded, UnknownResource
from engine.inspect import inspect
from engine.protocol.record import REQUEST_ID, Side, header
from engine.resources import Pipeline, quoted
from engine.ui.records import failure, in_order, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.inspect import Inspected, Source
    from engine.kafka.view import View
    from engine.protocol.record import Record
    from engine.settings import Settings

Data: TypeAlias = "dict[str, Any]"

# For reading the last requests of a pipeline, and for looking for one among millions.
LIST_SECONDS = 10.0
FIND_SECONDS = 30.0

# So many are listed at most; so many records of one request are shown.
MOST_LISTED = 200
MOST_RECORDS = 1000

# Each look has a connection of its own, and holds what it fetches for a moment.
MOST_LOOKS = 4

# A client that was closed refers to itself and to what it fetched last. Where that was much, it is not left to the
# next collection of such things, which may be a minute away: records of 90 MB held 1.2 GB until then.
MUCH_BYTES = 64 << 20


class Requests:
    """Looks requests up, a few at a time.

    clock   seconds since 1970
    """

    def __init__(self, settings: Settings, view: View, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._view, self._clock = settings, view, clock
        self._looks = asyncio.BoundedSemaphore(MOST_LOOKS)

    async def latest(self, pipeline: str, limit: int) -> list[Data]:
        """The requests of a pipeline that were last heard of, latest first. Raises as `inspect` does."""
        found = await self._look(
            pipeline, _without_value, offset=max(1, min(limit, MOST_LISTED)), timeout=LIST_SECONDS, ends_only=True
        )
        loaded = self._view.resources.get(("pipeline", pipeline))
        answers = loaded is not None and isinstance(loaded.resource, Pipeline) and loaded.resource.output is not None
        overdue = self._clock() - self._settings.request_timeout
        requests = [
            _summary(pipeline, request_id, parts, answers=answers, overdue=overdue)
            for request_id, parts in _by_request(found).items()
        ]
        return sorted(requests, key=lambda request: -request["at"])[:limit]

    async def records(self, pipeline: str, request_id: str) -> Data:
        """What is on the topics of one request. UnknownResource when that is nothing, and otherwise as `inspect`."""
        found: list[Data] = []

        def keep(record: Record, source: Source | None) -> Record:
            if source is not None and len(found) < MOST_RECORDS:
                found.append(shown(record, source))
            return replace(record, value=None)

        looked = await self._look(pipeline, keep, request_id=request_id, timeout=FIND_SECONDS)
        if not found:
            raise UnknownResource(f"no record of request {quoted(request_id)} is on the topics of {pipeline}")
        records = in_order(found, [item.source.topic for item in looked.topics])
        return {"id": request_id, "pipeline": pipeline, "records": records, "complete": looked.complete}

    async def _look(self, pipeline: str, kept: Callable[[Record, Source | None], Record], **asked: Any) -> Inspected:
        if ("pipeline", pipeline) not in self._view.resources:
            raise UnknownResource(f"no pipeline {quoted(pipeline)} is loaded")
        if self._looks.locked():
            raise Overloaded(f"{MOST_LOOKS} looks at topics are under way; try again in a moment")
        read = 0

        def keep(record: Record, source: Source | None) -> Record:
            nonlocal read
            read += len(record.value or b"")
            return kept(record, source)

        async with self._looks:
            try:
                return await inspect(self._settings, pipeline, view=self._view, kept=keep, **asked)
            finally:
                if read > MUCH_BYTES:
                    gc.collect()


def _without_value(record: Record, _: Source | None) -> Record:
    """What a list shows of a record: an error's text, and otherwise nothing but its headers."""
    return record if failure(record) is not None else replace(record, value=None)


def _by_request(found: Inspected) -> dict[str, list[tuple[Record, Source]]]:
    requests: dict[str, list[tuple[Record, Source]]] = {}
    for item in found.topics:
        for record in item.records:
            request_id = header(record.headers, REQUEST_ID)
            if request_id is not None:
                requests.setdefault(request_id, []).append((record, item.source))
    return requests


def _summary(
    pipeline: str, request_id: str, parts: Sequence[tuple[Record, Source]], *, answers: bool, overdue: float
) -> Data:
    """How a request stands. What was not answered by the time that callers wait for is not known to run."""
    came = [record.timestamp for record, source in parts if source.side is Side.INPUTS]
    ends = [record for record, source in parts if source.side is Side.OUTPUTS]
    errors = [record for record, source in parts if source.side is None]
    # Where there is an output it tells the end: an error of a step need not cost a request its answer.
    last = (ends or errors)[-1] if ends or errors else None
    first = min(came or [record.timestamp for record, _ in parts])
    error = None if last is None else failure(last)
    if last is not None:
        state = "done" if error is None else "failed"
    else:
        state = "running" if answers and first / 1000 > overdue else "unknown"
    return {
        "id": request_id,
        "pipeline": pipeline,
        "at": first / 1000,
        "state": state,
        "seconds": (last.timestamp - first) / 1000 if last is not None and came else None,
        "error": error and error["message"],
    }
