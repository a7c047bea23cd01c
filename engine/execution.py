"""A plan driven with its runtimes.

Decisions come from `dataflow.gather`, answers from the runtimes, and every step's inputs and outputs become records.
Knows topics by name and nothing of Kafka.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from engine.calls import UNSPLIT, Calls
from engine.dataflow.gather import Answer, Call, Done, Gather, Progress, Refused
from engine.errors import InvalidInput, ModelFailed, NoAnswer, RequestError, TooLarge
from engine.protocol import columns as col
from engine.protocol import rest_json, routes
from engine.protocol.record import (
    ERROR_CODE,
    ERROR_CODES,
    ERROR_STEP,
    INFER_TYPE,
    OFFSET,
    PIPELINE,
    PIPELINE_VERSION,
    REPLY,
    REQUEST_ID,
    STEP,
    Owner,
    ReplyAddress,
    Side,
    Topics,
    travelling,
)
from engine.telemetry import logs
from engine.telemetry.figures import Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.calls import Splits, Way
    from engine.dataflow.gather import Instruction, Wait
    from engine.dataflow.plan import Plan
    from engine.protocol.columns import Columns, Kind
    from engine.protocol.record import Headers, Sorted
    from engine.runtimes.contract import Part, Runtime
    from engine.telemetry.spans import Trip

log = logging.getLogger(__name__)

# An error repeats what the model said, which may be a whole tensor; nobody reads more.
_LONGEST_TEXT = 10_000

# Headers up to this size fit into the records of any topic.
_MOST_HEADER_BYTES = 16_384

HeaderList: TypeAlias = "list[tuple[str, bytes | None]]"


class Request(Progress):
    """One request on its way: where it came from, the headers that travel with it, the records it gives.

    origin      what the caller of `new_request` knows it by
    asked       the routes that it is to take where experiments split calls
    json        it came as JSON and is answered so
    told        its answer was written while steps still ran
    replaced    its records were refused by the broker, and an error stands in their place
    oversized   the step whose record was too large, if one was
    records     (topic, partition, value, headers) in the order they were made; the partition is the request's own
                but for replies. They are written together when the request is done.
    trip        its spans, when it is traced
    tell        hands the answer to a caller in this process; to be called when the records are written
    """

    __slots__ = (
        "asked",
        "execution",
        "headers",
        "json",
        "key",
        "offset",
        "origin",
        "oversized",
        "partition",
        "records",
        "replaced",
        "reply",
        "size",
        "tell",
        "told",
        "trip",
    )

    def __init__(
        self,
        execution: Execution,
        origin: Any,
        partition: int,
        offset: int,
        key: bytes | None,
        headers: HeaderList,
        reply: str | None,
        size: int,
    ) -> None:
        super().__init__()
        self.execution = execution
        self.asked: Headers = ()
        self.json = False
        self.oversized: str | None = None
        self.replaced = self.told = False
        self.origin, self.partition, self.offset, self.key = origin, partition, offset, key
        self.headers, self.reply, self.size = headers, reply, size
        self.records: list[tuple[str, int, bytes, HeaderList]] = []
        self.tell: Callable[[], None] | None = None
        self.trip: Trip | None = None

    @property
    def place(self) -> str:
        """Where its record stands, for a log line."""
        return f"{self.execution.inputs} [{self.partition}] offset {self.offset}"


class Callers(Protocol):
    """Those who wait for answers in this very process: to them an answer need not go through the broker."""

    def wait_here(self, address: ReplyAddress) -> bool:
        """Whether this process made the call."""

    def hand_over(self, value: bytes, headers: HeaderList) -> None:
        """Give an answer, or an error, to whom its header names."""


class AnsweredEarly(Protocol):
    """Takes requests that have their answer while some of their steps still run, with the records there are so far."""

    def __call__(self, requests: Sequence[Request]) -> None:
        """What is taken of their records now will not come again."""


class Finished(Protocol):
    """Takes requests that are done, with all their records."""

    def __call__(self, requests: Sequence[Request]) -> None:
        """Each request comes once."""


class Execution:
    """Runs requests through one plan.

    owner      whose plan it is: a pipeline's steps write their models' topics, a lone model only its outputs
    finished   is given each request once, when nothing of it is left to run
    answered   is given a request whose answer need not wait for steps that still run
    callers    who waits in this process, if anybody can
    splits     which experiments split the calls of the plan's models, and copy them to mirrors
    flow       where requests and failures are counted
    """

    def __init__(
        self,
        plan: Plan,
        version: int,
        owner: Owner,
        topics: Topics,
        runtime_of: Callable[[str], Runtime],
        finished: Finished,
        answered: AnsweredEarly,
        *,
        timeout: float,
        batch_max_wait: float,
        max_message_bytes: int,
        new_request_id: Callable[[], str],
        callers: Callers | None = None,
        splits: Splits = UNSPLIT,
        flow: Flow | None = None,
    ) -> None:
        self._flow = Flow() if flow is None else flow
        self._in_flight = 0
        self._callers, self._splits = callers, splits
        self.plan, self.version, self.owner, self.topics = plan, version, owner, topics
        self._gather = Gather(plan)
        self._calls = Calls(
            plan,
            runtime_of,
            self._take,
            timeout=timeout,
            batch_max_wait=batch_max_wait,
            splits=splits,
            flow=self._flow,
        )
        self._finished, self._answered_early = finished, answered
        self._max_message_bytes, self._new_request_id = max_message_bytes, new_request_id
        self._waits: set[asyncio.TimerHandle] = set()
        self._own_headers = self._headers_of_plan()
        self._step_topics = self._topics_of_steps()
        self._steps = {outputs: plan.nodes[index].name for index, (_, outputs, _) in self._step_topics.items()}
        self.inputs = topics.of(owner, plan.name, Side.INPUTS)
        self._outputs = topics.of(owner, plan.name, Side.OUTPUTS)
        self.name_bytes = plan.name.encode()

    @property
    def idle(self) -> bool:
        """Whether no call is out, and none waits for others."""
        return self._calls.idle

    def new_request(
        self,
        origin: Any,
        partition: int,
        offset: int,
        key: bytes | None,
        headers: Sorted,
        size: int,
    ) -> Request:
        """A request for a record of the inputs topic; it gets a request id when it brings none."""
        kept = headers.travelling
        if headers.marks.get(REQUEST_ID) is None:
            kept = [pair for pair in kept if pair[0] != REQUEST_ID]
            kept.append((REQUEST_ID, self._new_request_id().encode()))
        asked: Headers = ()
        if routes.ROUTE in headers.marks:
            asked, kept = routes.only(kept), [*routes.without(kept)]
        kept += self._own_headers
        request = Request(self, origin, partition, offset, key, kept, headers.text(REPLY), size)
        request.asked = asked
        if self._flow.spans is not None and self._flow.spans.sampled(kept):
            about = {"version": self.version, "partition": partition, "offset": offset}
            request.trip, request.headers = self._flow.spans.take(kept, self.plan.name, about)
        return request

    def begin(self, requests: Sequence[Request], columns: Columns) -> None:
        """Run requests; row i of the columns is request i's."""
        self._count(len(requests))
        self._follow(self._gather.start(requests, columns))

    def refuse(self, request: Request, error: RequestError) -> None:
        """A request that cannot even begin."""
        self._flow.taken += 1
        self._finish(request, error.at(self.plan.name))
        if request.trip is not None:
            request.trip.end(error)
        self._finished([request])

    def outcome(self, request: Request) -> RequestError | None:
        """Why a request that is done has no answer."""
        return self._gather.outcome(request)

    def flush(self) -> None:
        """Make the calls that wait for others to be made with."""
        self._calls.flush()

    async def drain(self) -> None:
        """Make every call that waits, and wait until all have ended."""
        await self._calls.drain()

    def cancel(self) -> None:
        """Give up every call that is out or waits; their requests never finish."""
        self._count(-self._in_flight)
        self._calls.cancel()
        for timer in self._waits:
            timer.cancel()

    def _count(self, begun: int) -> None:
        """So many requests more are on their way, or fewer."""
        self._in_flight += begun
        self._flow.in_flight += begun
        self._flow.taken += max(begun, 0)

    def _headers_of_plan(self) -> HeaderList:
        if self.owner is not Owner.PIPELINE:
            return []
        return [(PIPELINE, self.plan.name.encode()), (PIPELINE_VERSION, str(self.version).encode())]

    def _topics_of_steps(self) -> Mapping[int, tuple[str, str, tuple[str, bytes]]]:
        if self.owner is not Owner.PIPELINE:
            return {}
        return {
            index: (
                self.topics.of(Owner.MODEL, self.plan.nodes[index].name, Side.INPUTS),
                self.topics.of(Owner.MODEL, self.plan.nodes[index].name, Side.OUTPUTS),
                (STEP, self.plan.nodes[index].name.encode()),
            )
            for index in self.plan.steps
        }

    def _follow(self, instructions: Sequence[Instruction]) -> None:
        early: list[Request] = []
        for instruction in instructions:
            if isinstance(instruction, Call):
                self._start_call(instruction)
            elif isinstance(instruction, Answer):
                self._answer(instruction)
                early += self._answered_before_the_end(instruction)
            elif isinstance(instruction, Done):
                self._end(instruction.requests)  # type: ignore[arg-type]
            elif isinstance(instruction, Refused):
                self._write_failure(instruction.node, instruction.requests, instruction.error)  # type: ignore[arg-type]
            else:
                self._start_wait(instruction)
        if early:
            self._answered_early(early)

    def _answered_before_the_end(self, answer: Answer) -> list[Request]:
        """The requests whose answer need not wait for steps that still run, unless a record of it is too large."""
        requests: Sequence[Request] = answer.requests  # type: ignore[assignment]
        found = [request for request in requests if request.open and request.oversized is None]
        for request in found:
            request.told = True
        return found

    def _start_wait(self, wait: Wait) -> None:
        def expire() -> None:
            self._waits.discard(timer)
            self._follow(self._gather.expire(wait.node, wait.requests, wait.round))

        timer = asyncio.get_running_loop().call_later(wait.seconds, expire)
        self._waits.add(timer)

    def _start_call(self, call: Call) -> None:
        self._write_step(call.node, call.requests, call.columns, Side.INPUTS)  # type: ignore[arg-type]
        if self._splits.is_split(self.plan.nodes[call.node].name):
            self._mirror(call)
        if self._flow.spans is not None:
            for request in call.requests:
                if request.trip is not None:  # type: ignore[attr-defined]
                    request.trip.step(call.node, call.round, self.plan.nodes[call.node].name)  # type: ignore[attr-defined]
        self._calls.start(call)

    def _mirror(self, call: Call) -> None:
        """Write copies for the mirror of a step's model, which its own agent takes as it takes anybody's requests."""
        requests: Sequence[Request] = call.requests  # type: ignore[assignment]
        found: dict[Way, list[int]] = {}
        for row, request in enumerate(requests):
            # A model's request that names its way comes from a gateway, which has given the mirror its copy.
            is_done = self.owner is not Owner.PIPELINE and request.asked
            way = None if is_done else self._splits.mirror(self.plan.nodes[call.node].name)
            if way is not None:
                found.setdefault(way, []).append(row)
        for way, rows in found.items():
            topic = self.topics.of(Owner.MODEL, way.model, Side.INPUTS)
            values = col.encode(call.columns.take(rows), col.REQUEST, way.model)
            for request, value in zip((requests[row] for row in rows), values, strict=True):
                if len(value) <= self._max_message_bytes:
                    headers = [*routes.without(travelling(request.headers)), *way.headers]
                    request.records.append((topic, request.partition, value, headers))

    def _take(self, call: Call, part: Part) -> None:
        """One part of a call's answer."""
        requests: list[Request] = [call.requests[row] for row in part.rows]  # type: ignore[misc]
        outcome = part.outcome
        for request, headers in zip(requests, part.headers or (), strict=False):
            if headers:
                request.headers = [*request.headers, *travelling(headers)]
        if not isinstance(outcome, RequestError):
            outcome = self._write_outputs(call.node, requests, outcome)
        if self._flow.spans is not None:
            for request in requests:
                if request.trip is not None:
                    request.trip.stepped(call.node, call.round, outcome if isinstance(outcome, RequestError) else None)
        if isinstance(outcome, RequestError):
            error = self._explained(_presentable(outcome), call).at(self.plan.nodes[call.node].name)
            self._write_failure(call.node, requests, error)
            self._follow(self._gather.fail(call.node, requests, error, call.round))
        else:
            self._follow(self._gather.answer(call.node, requests, outcome, call.round))

    def _explained(self, error: RequestError, call: Call) -> RequestError:
        """What a model says of tensors that do not go together is only half of it: whence they came is the other."""
        if len(self.plan.nodes[call.node].edges) > 1 and isinstance(error, InvalidInput | ModelFailed):
            return type(error)(f"{error.text}; {self.plan.told(call.node, call.columns)}", step=error.step)
        return error

    def _write_outputs(self, node: int, requests: Sequence[Request], columns: Columns) -> Columns | RequestError:
        """Write a step's answers; an error when they are none."""
        try:
            self._write_step(node, requests, columns, Side.OUTPUTS)
        except Exception as error:
            log.exception('the runtime of model "%s" gave what is no answer', self.plan.nodes[node].name)
            return ModelFailed(f"{type(error).__name__}: {error}")
        return columns

    def _write_failure(self, node: int, requests: Sequence[Request], error: RequestError) -> None:
        self._flow.failed(self.plan.nodes[node].name, error, len(requests))
        for request in requests:
            self._write_error(request, self.topics.errors, error)

    def _write_step(self, node: int, requests: Sequence[Request], columns: Columns, side: Side) -> None:
        if node not in self._step_topics:
            return
        inputs, outputs, mark = self._step_topics[node]
        topic, kind = (inputs, col.REQUEST) if side is Side.INPUTS else (outputs, col.RESPONSE)
        values = self._encode(requests, columns, kind, self.plan.nodes[node].name)
        for request, value in zip(requests, values, strict=True):
            request.records.append((topic, request.partition, value, [*request.headers, mark]))

    def _answer(self, answer: Answer) -> None:
        requests: Sequence[Request] = answer.requests  # type: ignore[assignment]
        values = self._encode(requests, answer.columns, col.RESPONSE, self.plan.name)
        for request, value in zip(requests, values, strict=True):
            if request.reply is not None:
                self._reply(request, value, self._routes(request))
            headers = request.headers
            if request.json:
                value = rest_json.encode_response(col.RESPONSE.message.FromString(value))  # noqa: PLW2901  the same answer
                if len(value) > self._max_message_bytes:
                    request.oversized = self.plan.name
                headers = [*headers, (INFER_TYPE, b"json/inferModelResponse")]
            request.records.append((self._outputs, request.partition, value, headers))

    def _routes(self, request: Request) -> HeaderList:
        """What tells a caller which models answered, beside those that their way tells of already."""
        steps = dict.fromkeys(self._steps[topic] for topic, *_ in request.records if topic in self._steps)
        found = (self._splits.route(step) for step in steps)
        return [(routes.ROUTE, route) for route in found if route is not None]

    def _encode(self, requests: Sequence[Request], columns: Columns, kind: Kind, name: str) -> list[bytes]:
        """The rows as messages; a request with one over the limit is marked and ends with an error."""
        values = col.encode(columns, kind, name)
        if max(map(len, values)) > self._max_message_bytes:
            for request, value in zip(requests, values, strict=True):
                if len(value) > self._max_message_bytes:
                    request.oversized = name
        return values

    def _end(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.oversized is not None and not request.told:
                limit = self._max_message_bytes
                self._replace(
                    request, TooLarge(f"a message is over the limit of {limit} bytes", step=request.oversized)
                )
            elif not request.answered:
                self._end_unanswered(request)
            if request.trip is not None:
                request.trip.end(None if request.answered else self._gather.outcome(request))
        self._count(-len(requests))
        self._finished(requests)

    def _end_unanswered(self, request: Request) -> None:
        error = self._gather.outcome(request)
        if error is not None:
            self._finish(request, error)
        elif request.reply is not None:
            self._reply_error(request, NoAnswer(f'pipeline "{self.plan.name}" has no output'))

    def replace(self, request: Request, error: RequestError) -> None:
        """Nothing of a finished request can be written: put this error in the place of its records."""
        # Whatever the broker refused may have come of the caller's headers, or be an error that was to be told.
        if sum(len(name) + len(value or b"") for name, value in request.headers) > _MOST_HEADER_BYTES:
            request.headers = [pair for pair in request.headers if pair[0] in (REQUEST_ID, PIPELINE, PIPELINE_VERSION)]
        request.records = []
        self._replace(request, error.at(self.plan.name))

    def _replace(self, request: Request, error: RequestError) -> None:
        request.records = [record for record in request.records if record[0] == self.topics.errors]
        request.failures = None
        self._finish(request, error)

    def _finish(self, request: Request, error: RequestError) -> None:
        """A request that ends without an answer: the error on the outputs topic, unless a branch was not taken."""
        self._flow.ended_unanswered(error)
        if not isinstance(error, NoAnswer):
            step = error.step or self.plan.name
            log.info("a request ended with %s", ERROR_CODES[type(error)], extra=logs.about(request.headers, step=step))
            if not request.failures:
                self._flow.failed(self.plan.name, error)
                self._write_error(request, self.topics.errors, error)
            self._write_error(request, self._outputs, error)
        if request.reply is not None:
            self._reply_error(request, error)

    def _write_error(self, request: Request, topic: str, error: RequestError) -> None:
        request.records.append((topic, request.partition, error.text.encode(), self._error_headers(request, error)))

    def _error_headers(self, request: Request, error: RequestError) -> HeaderList:
        return [
            *request.headers,
            (ERROR_STEP, (error.step or self.plan.name).encode()),
            (ERROR_CODE, ERROR_CODES[type(error)].encode()),
            (OFFSET, b"%d" % request.offset),
        ]

    def _reply_error(self, request: Request, error: RequestError) -> None:
        self._reply(request, error.text.encode(), self._error_headers(request, error)[len(request.headers) :])

    def _reply(self, request: Request, value: bytes, marks: HeaderList) -> None:
        assert request.reply is not None
        address = ReplyAddress.parse(request.reply)
        if address is None:
            return
        headers = [*request.headers, (REPLY, request.reply.encode()), *marks]
        if self._callers is not None and self._callers.wait_here(address):
            request.tell = functools.partial(self._callers.hand_over, value, headers)
        else:
            request.records.append((self.topics.replies, address.partition, value, headers))


def _presentable(error: RequestError) -> RequestError:
    """An error as one of our own kinds, with a text that any topic takes: models may raise what they like."""
    kind = next((kind for kind in type(error).__mro__ if kind in ERROR_CODES), ModelFailed)
    text = str(error).encode("utf-8", "replace").decode()
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}…"
    return kind(text, step=getattr(error, "step", None))
