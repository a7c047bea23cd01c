"""Requests that are sent from the page, and what is seen of them as they go through the steps."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import orjson

from engine.errors import BrokerUnavailable, InvalidInput, Overloaded, RequestError, UnknownResource
from engine.gateway import statuses
from engine.gateway.observing import Counted
from engine.inspect import follow, from_now
from engine.protocol import rest_json
from engine.protocol.record import Owner, Side
from engine.resources import quoted
from engine.ui.glimpses import glimpses
from engine.ui.graphs import of_pipeline
from engine.ui.records import LONGEST_ERROR, in_order, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from engine.gateway.inference import Inference, Target
    from engine.inspect import TopicRecords
    from engine.kafka.view import View
    from engine.settings import Settings
    from engine.telemetry.figures import Figures

Data: TypeAlias = "dict[str, Any]"

# What was sent last can be looked at again for a while; so many at once wait for their answers.
MOST_KEPT = 100
MOST_RUNNING = 16

# Topics hold a record a moment after its answer is here, where several are written as one; so long the last ones are
# waited for, and once the request's end is seen for others of the same time.
LAST_RECORD_SECONDS = 3.0
SETTLE_SECONDS = 0.2

# A larger answer is shown by its tensors alone.
MOST_BODY = 64 * 1024

MOST_RECORDS = 1000


class Sent:
    """A request that was sent, and all that is known of it."""

    def __init__(self, request_id: str, target: Target) -> None:
        self.id, self.target = request_id, target
        self.records: list[Data] = []
        self.answer: Data | None = None
        self._news = asyncio.Event()
        self.ended = asyncio.Event()

    def seen(self, found: Sequence[TopicRecords]) -> None:
        """Records of it have come."""
        records = [shown(record, item.source) for item in found for record in item.records]
        for record in in_order(records, [item.source.topic for item in found]):
            self.add(record)

    def add(self, record: Data) -> None:
        """One record of it."""
        if len(self.records) < MOST_RECORDS:
            self.records.append(record)
        if record["node"] == of_pipeline(self.target.name, Side.OUTPUTS) or record["error"]:
            self.ended.set()
        self._tell()

    def answered(self, answer: Data) -> None:
        """It has ended, and nothing else of it comes."""
        self.answer = answer
        self._tell()

    async def events(self) -> AsyncGenerator[tuple[str, Any], None]:
        """All of it from the begin, as it comes, up to the answer."""
        told = 0
        while True:
            news = self._news
            while told < len(self.records):
                told += 1
                yield "record", self.records[told - 1]
            if self.answer is not None:
                yield "answer", self.answer
                return
            await news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Sending:
    """Sends requests as a caller of the gateway does, and follows them on the topics."""

    def __init__(
        self,
        settings: Settings,
        view: View,
        figures: Figures,
        plane: Inference,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._view, self._figures, self._plane = settings, view, figures, plane
        self._clock = clock
        self._kept: OrderedDict[str, Sent] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, target: Target, message: Any) -> str:
        """Begin to send a request; its id. Raises Overloaded when too many wait for their answers."""
        if len(self._tasks) >= MOST_RUNNING:
            raise Overloaded(f"{MOST_RUNNING} requests that were sent from here wait for their answers")
        self._plane.check_room(target)
        sent = Sent(self._plane.new_request_id(), target)
        self._kept[sent.id] = sent
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        task = asyncio.create_task(self._run(sent, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return sent.id

    def sent(self, request_id: str) -> Sent:
        """A request that was sent from here. UnknownResource when it was not, or long ago."""
        found = self._kept.get(request_id)
        if found is None:
            raise UnknownResource(f"request {quoted(request_id)} is none of the last that were sent from this page")
        return found

    async def stop(self) -> None:
        """Wait for no answer any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, sent: Sent, message: Any) -> None:
        following = await self._begin_to_follow(sent, message)
        try:
            answer = await self._answer(sent, message)
            if following is not None:
                await _last_records(sent, following)
            sent.answered(answer)
        finally:
            if sent.answer is None:
                # A fault of ours, which the log tells of, or the page stops.
                sent.answered({"status": 500, "seconds": None, "body": {"error": statuses.INTERNAL_TEXT}})
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _begin_to_follow(self, sent: Sent, message: Any) -> asyncio.Task[NoReturn] | None:
        """Watch the topics of a pipeline; a model that runs here writes on none, so its request is told by itself."""
        if sent.target.owner is not Owner.PIPELINE:
            sent.add(self._direct(sent, Side.INPUTS, glimpses(message)))
            return None
        try:
            begin = await from_now(self._settings, sent.target.name, view=self._view)
        except (RequestError, BrokerUnavailable):
            return None  # the answer tells what is wrong
        return asyncio.create_task(follow(self._settings, begin, sent.seen, request_id=sent.id))

    async def _answer(self, sent: Sent, message: Any) -> Data:
        since, target = time.perf_counter(), sent.target
        try:
            with Counted(self._figures, target, "rest"):
                answer = await self._plane.infer(
                    target, message, (), request_id=sent.id, timeout=self._settings.request_timeout
                )
        except RequestError as error:
            seconds = time.perf_counter() - since
            status, text = statuses.status_of(error), statuses.text_of(error)[:LONGEST_ERROR]
            if target.owner is not Owner.PIPELINE:
                told = {"status": status.grpc.name, "step": error.step or target.name, "message": text}
                sent.add(self._direct(sent, Side.OUTPUTS, [], told))
            return {"status": status.http, "seconds": seconds, "body": {"error": text}}
        seconds = time.perf_counter() - since
        if target.owner is not Owner.PIPELINE:
            sent.add(self._direct(sent, Side.OUTPUTS, glimpses(answer.message)))
        return {"status": 200, "seconds": seconds, "body": _body(answer.message)}

    def _direct(self, sent: Sent, side: Side, tensors: list[Data], error: Data | None = None) -> Data:
        """What stands for a record where there is none."""
        place = {"topic": None, "partition": None, "offset": None, "at": self._clock()}
        return {
            "node": sent.target.name, "side": str(side), **place, "error": error, "headers": [], "tensors": tensors,
        }  # fmt: skip


async def _last_records(sent: Sent, following: asyncio.Task[NoReturn]) -> None:
    ended = asyncio.create_task(sent.ended.wait())
    await asyncio.wait((ended, following), timeout=LAST_RECORD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if not ended.cancel():
        await asyncio.sleep(SETTLE_SECONDS)


def _body(message: Any) -> Any:
    """An answer in JSON; of a large one the begin of each tensor."""
    size = message.ByteSize()
    if size > MOST_BODY:
        return {
            "note": f"the answer has {size:,} bytes: this is the begin of each tensor",
            "outputs": glimpses(message),
        }
    try:
        return orjson.Fragment(rest_json.encode_response(message))
    except (InvalidInput, ValueError) as error:
        return {"error": f"the answer is no V2 response: {error}"}
