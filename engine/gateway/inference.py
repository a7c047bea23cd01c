"""What stands behind both doors: find the target, give it the request, wait for its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import (
    InvalidInput,
    ModelFailed,
    NoOutput,
    Overloaded,
    RequestError,
    TimedOut,
    TooLarge,
    UnknownResource,
)
from engine.protocol import columns as col
from engine.protocol import routes
from engine.protocol.messages import ModelMetadataResponse
from engine.protocol.record import PIPELINE, REQUEST_ID, Owner, Side
from engine.resources import quoted
from engine.telemetry.logs import CONCERN, Concern

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.protocol.record import HeaderPairs, Headers, RequestIds, Topics
    from engine.runtimes.contract import Part, Runtime
    from engine.settings import Settings


@dataclass(frozen=True, slots=True)
class Target:
    """The model, pipeline, explainer or experiment that a call is for."""

    owner: Owner
    name: str


@dataclass(frozen=True, slots=True)
class Way:
    """Who answers a call, which is no experiment, who gets a copy of it, and which experiment said so, if one did."""

    target: Target
    mirror: Target | None = None
    experiment: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A `ModelInferResponse` message and the X- headers that go back to the caller."""

    message: Any
    headers: Headers


class Inference(Protocol):
    """The data plane as the doors see it. Every failure is a RequestError."""

    def new_request_id(self) -> str:
        """An id for a request whose caller gave none."""

    def check_room(self, target: Target) -> None:
        """Raise Overloaded when a call for the target would be refused now: asked before its body is read."""

    async def infer(self, target: Target, request: Any, headers: Headers, *, request_id: str, timeout: float) -> Answer:
        """Answer a `ModelInferRequest` within `timeout` seconds; UnknownResource for another version than runs."""

    async def ready(self, target: Target, version: str = "") -> bool:
        """Whether the target would answer now; UnknownResource when there is no such target or version."""

    def unready(self, target: Target) -> str:
        """Why a target is not ready, in the words of whoever runs it."""

    async def metadata(self, target: Target, version: str = "") -> Any:
        """What is known of the target's tensors, as a `ModelMetadataResponse`; UnknownResource as `ready`."""

    async def server_ready(self) -> bool:
        """Whether this gateway can take requests."""


class Catalogue(Protocol):
    """What is loaded, as far as the gateway needs to know it."""

    def version(self, target: Target) -> int | None:
        """The version of the target; None when there is none of that name."""

    def answers(self, target: Target) -> bool:
        """Whether a caller could ever get an answer: False for a pipeline without an output section."""

    def ready(self, target: Target) -> bool:
        """Whether some instance says that it is ready."""

    def unready(self, target: Target) -> str:
        """Why it is not ready, in the words of whoever runs it."""

    def metadata(self, target: Target) -> Any:
        """What is known here of the target's tensors, as a `ModelMetadataResponse`; None when nothing is."""


class Desk(Protocol):
    """Publishes a request and gives its reply."""

    @property
    def waiting(self) -> int:
        """How many callers wait for their replies."""

    async def call(self, topic: str, key: bytes, value: bytes, headers: Headers, timeout: float) -> Any:
        """The reply, with `value` and `headers`; a RequestError otherwise."""


class DataPlane:
    """Models of this process are called directly, everything else through Kafka.

    runtime   the runtime of a model or an explainer that this process has, if it has it
    refusal   why no request can be taken at the moment; None when they can
    way       who answers a call for a target with these headers
    copy      publishes a request that nobody waits for, some time, or never when that cannot be done
    drawn     hears of each call of an experiment, and which candidate it goes to
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        catalogue: Catalogue,
        desk: Desk,
        request_ids: RequestIds,
        *,
        runtime: Callable[[str], Runtime | None] = lambda _: None,
        refusal: Callable[[], str | None] = lambda: None,
        way: Callable[[Target, HeaderPairs], Way] = lambda target, _: Way(target),
        copy: Callable[[str, bytes, bytes, Headers], None] = lambda *_: None,
        drawn: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._settings, self._topics, self._catalogue, self._desk = settings, topics, catalogue, desk
        self._request_ids, self._runtime, self._refusal = request_ids, runtime, refusal
        self._way, self._copy, self._drawn = way, copy, drawn
        self._direct = 0

    def new_request_id(self) -> str:
        """An id that carries the time and is no other process's."""
        return self._request_ids.new()

    def check_room(self, target: Target) -> None:
        """A call of an experiment has no place of its own: who answers it is not drawn yet."""
        self._check_refusal()
        if target.owner is not Owner.EXPERIMENT:
            is_direct = target.owner is not Owner.PIPELINE and self._runtime(target.name) is not None
            self._check_places(self._direct if is_direct else self._desk.waiting)

    def _check_refusal(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            raise Overloaded(refusal)

    def _check_places(self, taken: int) -> None:
        if taken >= self._settings.max_in_flight:
            raise Overloaded(f"{taken} requests are in flight, which is the limit; try again later")

    async def infer(self, target: Target, request: Any, headers: Headers, *, request_id: str, timeout: float) -> Answer:
        """Answer a request, directly or through Kafka; the answer, or the error, names the route that it took."""
        self._check_refusal()
        self._check_version(target, request.model_version)
        way = self._way(target, headers)
        if way.experiment:
            self._drawn(way.experiment, way.target.name)
        if way.target != target:
            request.model_name = way.target.name
        route = (routes.ROUTE, routes.of(way.target.owner, way.target.name, self._known(way.target)))
        try:
            answer = await self._infer(way, route, request, headers, request_id, timeout)
            _keep_requested(answer.message, [output.name for output in request.outputs])
        except RequestError as error:
            error.headers = routes.only((*error.headers, route))
            raise
        taken = routes.only((*answer.headers, route))
        return Answer(answer.message, (*routes.without(answer.headers), *taken))

    async def _infer(
        self, way: Way, route: tuple[str, bytes], request: Any, headers: Headers, request_id: str, timeout: float
    ) -> Answer:
        target = way.target
        if not self._catalogue.answers(target):
            raise NoOutput(
                f'pipeline "{target.name}" has no output section, so nothing would ever answer this call; '
                "send it by Kafka, or add an output"
            )
        sent: Headers = (*routes.without(headers), (REQUEST_ID, request_id.encode()))
        if way.mirror is not None:
            self._mirror(way.mirror, request, sent, request_id)
        runtime = self._runtime(target.name) if target.owner is not Owner.PIPELINE else None
        if runtime is not None:
            return await self._call(target, runtime, request, sent, timeout)
        # Whoever runs a model that an experiment splits must not draw again; a pipeline's steps take the asked routes.
        asked = routes.only(headers) if target.owner is Owner.PIPELINE else (route,)
        return await self._publish(target, request, (*sent, *asked), request_id, timeout)

    def _mirror(self, mirror: Target, request: Any, headers: Headers, request_id: str) -> None:
        """Give the mirror a copy; what becomes of it is nothing to the caller."""
        value = request.SerializeToString()
        if len(value) <= self._settings.max_message_bytes:
            route = routes.of(mirror.owner, mirror.name, self._known(mirror))
            own = (PIPELINE, mirror.name.encode()) if mirror.owner is Owner.PIPELINE else (routes.ROUTE, route)
            topic = self._topics.of(mirror.owner, mirror.name, Side.INPUTS)
            self._copy(topic, f"{mirror.name}.{request_id}".encode(), value, (*headers, own))

    async def ready(self, target: Target, version: str = "") -> bool:
        """Whether some instance says that the target is ready."""
        self._known(target)
        self._check_version(target, version)
        return self._catalogue.ready(target)

    def unready(self, target: Target) -> str:
        """What `seldon pipeline list` tells of it too."""
        return self._catalogue.unready(target)

    async def metadata(self, target: Target, version: str = "") -> Any:
        """A model's own metadata where this process has it; otherwise what is told of the target, at least its name.

        An experiment's is that of one of its candidates. The version is the one that calls may name, whatever a remote
        server has.
        """
        self._check_version(target, version)
        if target.owner is Owner.EXPERIMENT:
            target = self._way(target, ()).target
        loaded = self._known(target)
        runtime = self._runtime(target.name) if target.owner is not Owner.PIPELINE else None
        metadata = ModelMetadataResponse(name=target.name, platform=str(target.owner))
        if runtime is not None:
            metadata.CopyFrom(await runtime.metadata())
        elif (told := self._catalogue.metadata(target)) is not None:
            metadata.CopyFrom(told)
        metadata.versions[:] = [str(loaded)]
        return metadata

    async def server_ready(self) -> bool:
        """Requests can be taken unless there is a refusal."""
        return self._refusal() is None

    def _known(self, target: Target) -> int:
        version = self._catalogue.version(target)
        if version is None:
            raise UnknownResource(f'no {target.owner} "{target.name}" is loaded')
        return version

    def _check_version(self, target: Target, version: str) -> None:
        """Who names a version is not answered by another in silence; who names none takes the one that there is."""
        if version and version != str(loaded := self._known(target)):
            raise UnknownResource(
                f'{target.owner} "{target.name}" has no version {quoted(version)}; it has version {loaded}'
            )

    async def _call(self, target: Target, runtime: Runtime, request: Any, headers: Headers, timeout: float) -> Answer:
        self._check_places(self._direct)
        self._check_size(request.ByteSize(), "the request")
        columns = col.from_message(request, col.REQUEST)
        self._direct += 1
        concern = CONCERN.set(Concern([headers]))
        try:
            async with asyncio.timeout(timeout):
                # To the end of it: what is left of a generator costs the event loop a task that closes it.
                parts = [part async for part in runtime.infer(columns, [headers], timeout)]
        except TimeoutError:
            raise TimedOut(f"no answer came within {timeout:g} s", step=target.name) from None
        finally:
            CONCERN.reset(concern)
            self._direct -= 1
        if not parts:
            raise ModelFailed("the runtime gave no answer", step=target.name)
        return self._answer(target, parts[0], headers)

    async def _publish(
        self,
        target: Target,
        request: Any,
        headers: Headers,
        request_id: str,
        timeout: float,
    ) -> Answer:
        value = request.SerializeToString()
        self._check_size(len(value), "the request")
        topic = self._topics.of(target.owner, target.name, Side.INPUTS)
        if target.owner is Owner.PIPELINE:
            headers = (*headers, (PIPELINE, target.name.encode()))
        reply = await self._desk.call(topic, f"{target.name}.{request_id}".encode(), value, headers, timeout)
        return Answer(col.RESPONSE.message.FromString(reply.value), reply.headers)

    def _answer(self, target: Target, part: Part, headers: Headers) -> Answer:
        if isinstance(part.outcome, RequestError):
            raise part.outcome.at(target.name)
        added = part.headers[0] if part.headers is not None else ()
        [value] = col.encode(part.outcome.take([0]), col.RESPONSE, target.name)
        self._check_size(len(value), "the answer", step=target.name)
        return Answer(col.RESPONSE.message.FromString(value), (*headers, *added))

    def _check_size(self, size: int, what: str, step: str | None = None) -> None:
        limit = self._settings.max_message_bytes
        if size > limit:
            raise TooLarge(f"{what} takes {size} bytes; the limit is {limit}", step=step)


def _keep_requested(message: Any, names: list[str]) -> None:
    """Leave of an answer's outputs what the caller asked for, in that order; all of them when it asked for none."""
    if not names:
        return
    items, raws = list(message.outputs), message.raw_output_contents[:]
    places = {item.name: place for place, item in enumerate(items)}
    for name in names:
        if name not in places:
            given = ", ".join(f'"{item.name}"' for item in items) or "none"
            raise InvalidInput(f'the request asks for output "{name}"; the outputs are {given}')
    wanted = [places[name] for name in names]
    kept = [items[place].SerializeToString() for place in wanted]
    del message.outputs[:]
    for item in kept:
        message.outputs.add().MergeFromString(item)
    if raws:
        message.raw_output_contents[:] = [raws[place] for place in wanted]
