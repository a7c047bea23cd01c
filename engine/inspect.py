"""Read what passed each step of a pipeline: the records on its topics, newest requests first to be found.

`resolve`, `belongs`, `newest` and `of_latest_requests` decide, without a broker; `inspect` reads.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import aiokafka
from aiokafka.errors import KafkaError
from google.protobuf import json_format

from engine.dataflow.compiler import compile_pipeline
from engine.errors import InvalidInput, TimedOut, UnknownResource
from engine.kafka import client, reading
from engine.protocol import columns, rest_json
from engine.protocol.messages import DecodeError
from engine.protocol.record import (
    ERROR_STEP,
    INFER_TYPE,
    PIPELINE,
    REQUEST_ID,
    Owner,
    Record,
    Side,
    Topics,
    header,
)
from engine.resources import Pipeline, did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.kafka.registry import View
    from engine.protocol.columns import Kind
    from engine.protocol.record import Headers
    from engine.settings import Settings

# A model's topics carry the records of every pipeline that uses it, and transactions leave markers: behind those
# the pipeline's own are looked for this many offsets back in each partition, and no farther.
FARTHEST = 4096

# By how much the look back grows when what was read holds too few records of the pipeline.
_WIDER = 8


@dataclass(frozen=True, slots=True)
class Source:
    """One topic to look at.

    side      which messages it holds; None for the errors topic, whose records are text
    tensor    the only tensor to show; None shows all
    unnamed   whether a record that names no pipeline belongs to the pipeline as well
    """

    topic: str
    side: Side | None
    tensor: str | None = None
    unnamed: bool = False


@dataclass(frozen=True, slots=True)
class TopicRecords:
    """What was found on one topic, oldest first."""

    source: Source
    records: tuple[Record, ...]


def resolve(view: View, topics: Topics, expression: str) -> tuple[str, tuple[Source, ...]]:
    """The pipeline that an expression names, and the topics to look at in the order of its plan.

    An expression is `pipeline[.step][.inputs|outputs[.tensor]]`. UnknownResource when no such pipeline is loaded,
    InvalidInput for a step that it does not have; both name what was probably meant.
    """
    name, *rest = expression.split(".")
    loaded = view.resources.get(("pipeline", name))
    if loaded is None or not isinstance(loaded.resource, Pipeline):
        known = [key[1] for key in view.resources if key[0] == "pipeline"]
        raise UnknownResource(_hinted(f"no pipeline {quoted(name)} is loaded", name, known))
    steps = _steps(loaded.resource)
    if not rest:
        inner = [source for step in steps for source in _both(topics, Owner.MODEL, step)]
        return name, (*inner, *_both(topics, Owner.PIPELINE, name), Source(topics.errors, None))
    owner, asked = Owner.PIPELINE, name
    if rest[0] not in tuple(Side):
        owner, asked = Owner.MODEL, rest.pop(0)
        if asked not in steps:
            raise InvalidInput(_hinted(f'pipeline "{name}" has no step {quoted(asked)}', asked, steps))
    return name, _sides(expression, rest, _both(topics, owner, asked))


def _steps(pipeline: Pipeline) -> list[str]:
    plan, _ = compile_pipeline(pipeline)
    if plan is None:
        return [step.name for step in pipeline.steps]
    return [plan.nodes[index].name for index in plan.steps]


def _both(topics: Topics, owner: Owner, name: str) -> tuple[Source, ...]:
    return tuple(
        Source(topics.of(owner, name, side), side, unnamed=owner is Owner.PIPELINE and side is Side.INPUTS)
        for side in Side
    )


def _sides(expression: str, rest: Sequence[str], both: tuple[Source, ...]) -> tuple[Source, ...]:
    if not rest:
        return both
    # A tensor's name may hold dots.
    side, tensor = rest[0], ".".join(rest[1:])
    chosen = tuple(replace(source, tensor=tensor or None) for source in both if source.side == side)
    if not chosen or (len(rest) > 1 and not tensor):
        raise InvalidInput(
            f"{quoted(expression)} names nothing to look at; "
            "write PIPELINE, PIPELINE.STEP, or one of these with .inputs or .outputs, and .TENSOR behind it"
        )
    return chosen


def _hinted(text: str, word: str, known: Sequence[str]) -> str:
    hint = did_you_mean(word, known) or (f"there is {', '.join(known)}" if known else "")
    return f"{text}; {hint}" if hint else text


def belongs(headers: Headers, pipeline: str, *, unnamed: bool) -> bool:
    """Whether a record is of the pipeline: its header says so, or it says nothing where that is enough."""
    named = header(headers, PIPELINE)
    return unnamed if named is None else named == pipeline


def newest(records: Iterable[Record], count: int) -> tuple[Record, ...]:
    """The last `count` records of a topic by time, over all its partitions together; oldest first."""
    return tuple(sorted(records, key=_age)[-count:])


def _age(record: Record) -> tuple[int, int, int]:
    return record.timestamp, record.partition, record.offset


def of_request(found: Iterable[TopicRecords], request_id: str) -> list[TopicRecords]:
    """Only the records of one request."""
    return [replace(item, records=_with_ids(item.records, {request_id})) for item in found]


def of_latest_requests(found: Sequence[TopicRecords], count: int) -> list[TopicRecords]:
    """Only the records of the `count` requests that were last heard of, and those that name no request.

    The last record of a topic may be much older than that of the others: a branch that is seldom taken, an error
    of yesterday. Beside the last request it would seem to be of it.
    """
    heard: dict[str, tuple[int, int, int]] = {}
    for item in found:
        for record in item.records:
            request_id = header(record.headers, REQUEST_ID)
            if request_id is not None:
                heard[request_id] = max(_age(record), heard.get(request_id, (0, 0, 0)))
    latest: set[str | None] = {None, *sorted(heard, key=heard.__getitem__)[-count:]}
    return [replace(item, records=_with_ids(item.records, latest)) for item in found]


def _with_ids(records: Sequence[Record], ids: set[str] | set[str | None]) -> tuple[Record, ...]:
    return tuple(record for record in records if header(record.headers, REQUEST_ID) in ids)


async def inspect(
    settings: Settings,
    expression: str,
    *,
    request_id: str | None = None,
    offset: int = 1,
    timeout: float = 5.0,
    view: View | None = None,
) -> list[TopicRecords]:
    """The records of the last `offset` requests on each topic that the expression names; topics without any too.

    request_id   of those, only this request's
    view         what the registry says; read from the broker when not given

    Nothing is created or written. Raises UnknownResource and InvalidInput for the expression, BrokerUnavailable,
    and TimedOut when the broker does not give the last records in `timeout` seconds.
    """
    topics = Topics(settings.topic_prefix, settings.namespace)
    topology, reader = client.Topology(settings), client.new_reader(settings, fetch_wait_ms=100)
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            await topology.start()
            await client.start(reader, settings)
            if view is None:
                view = await reading.view_of(reader, topology, topics)
            name, sources = resolve(view, topics, expression)
            existing = await topology.partitions([source.topic for source in sources])
            tails = await _Tails.begin(reader, name, sources, existing, offset)
            await tails.read()
        await tails.look_back(deadline)
    except TimeoutError:
        raise TimedOut(
            f"the broker at {settings.kafka_broker} did not give the records within {timeout:g} s; raise --timeout-secs"
        ) from None
    except KafkaError as error:
        raise client.unavailable(settings, error) from error
    finally:
        await reader.stop()
        await topology.stop()
    found = tails.found()
    shown = of_request(found, request_id) if request_id else of_latest_requests(found, offset)
    _check_tensor(shown)
    return shown


def _check_tensor(found: Sequence[TopicRecords]) -> None:
    """InvalidInput when a tensor is asked for that no message has."""
    for item in found:
        tensor, present = item.source.tensor, dict[str, None]()
        messages = [] if tensor is None else [_message(record, item.source.side) for record in item.records]
        for message in messages:
            present.update((entry.name, None) for entry in _tensors(message))
        if present and tensor is not None and tensor not in present:
            raise InvalidInput(_hinted(f"no tensor {quoted(tensor)} is on {item.source.topic}", tensor, list(present)))


@dataclass(slots=True)
class _Partition:
    """How far back a partition was read: down to `low`, of which `oldest` is the time."""

    begin: int
    end: int
    low: int
    oldest: int | None = None
    own: int = 0


@dataclass(slots=True)
class _Tails:
    """The last records of a pipeline on some topics."""

    reader: Any
    pipeline: str
    sources: dict[str, Source]
    offset: int
    partitions: dict[Any, _Partition]
    records: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    async def begin(
        cls, reader: Any, pipeline: str, sources: Sequence[Source], existing: Mapping[str, int], offset: int
    ) -> _Tails:
        """Find where the topics that exist begin and end."""
        places = [aiokafka.TopicPartition(topic, n) for topic, count in existing.items() for n in range(count)]
        state = {}
        if places:
            spans = await reading.whole(reader, places)
            state = {place: _Partition(begin, end, end) for place, (begin, end) in spans.items()}
        return cls(reader, pipeline, {source.topic: source for source in sources}, offset, state)

    async def read(self) -> None:
        """Read the last `offset` records of each partition."""
        await self._read_back(self.offset, self.partitions)

    async def look_back(self, deadline: float) -> None:
        """Look farther back where others' records hide the pipeline's; what is found until the deadline counts."""
        window = self.offset
        try:
            async with asyncio.timeout_at(deadline):
                while window < FARTHEST and (short := [p for p in self.partitions if self._short(p)]):
                    window *= _WIDER
                    await self._read_back(window, short)
        except TimeoutError:
            return

    def found(self) -> list[TopicRecords]:
        """The last `offset` records of the pipeline on each topic."""
        return [
            TopicRecords(source, newest(self.records[topic], self.offset)) for topic, source in self.sources.items()
        ]

    def _short(self, place: Any) -> bool:
        """Whether older records of this partition could be among the last `offset` of its topic."""
        partition, records = self.partitions[place], self.records[place.topic]
        if partition.low <= partition.begin or partition.own >= self.offset:
            return False
        if len(records) < self.offset or partition.oldest is None:
            return True
        return partition.oldest > newest(records, self.offset)[0].timestamp

    async def _read_back(self, window: int, places: Iterable[Any]) -> None:
        spans = {}
        for place in places:
            partition = self.partitions[place]
            spans[place] = (max(partition.end - window, partition.begin), partition.low)
        await reading.read(self.reader, spans, self._take)
        for place, (start, _) in spans.items():
            self.partitions[place].low = start

    def _take(self, raw: Any) -> None:
        partition = self.partitions[aiokafka.TopicPartition(raw.topic, raw.partition)]
        # The embedded broker's end of a partition stands within its last batch, so what is after it counts at first.
        if partition.low < partition.end and raw.offset >= partition.low:
            return
        partition.oldest = raw.timestamp if partition.oldest is None else min(partition.oldest, raw.timestamp)
        if belongs(raw.headers, self.pipeline, unnamed=self.sources[raw.topic].unnamed):
            partition.own += 1
            self.records[raw.topic].append(
                Record(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, tuple(raw.headers))
            )


def readable(record: Record, source: Source) -> Any:
    """A record's value for people: a V2 message as protobuf's JSON with typed contents, anything else as text."""
    message = _message(record, source.side)
    if message is None:
        return (record.value or b"").decode("utf-8", "backslashreplace")
    if source.tensor is not None:
        tensors = _tensors(message)
        kept = [tensor for tensor in tensors if tensor.name == source.tensor]
        del tensors[:]
        tensors.extend(kept)
    return json_format.MessageToDict(message)


def _tensors(message: Any) -> Any:
    """The tensors of a request or a response; none of None."""
    if message is None:
        return []
    return message.inputs if isinstance(message, columns.REQUEST.message) else message.outputs


def _message(record: Record, side: Side | None) -> Any:
    """The V2 message that a record holds, with typed contents; None when it holds none."""
    if side is None or not record.value or header(record.headers, ERROR_STEP) is not None:
        return None
    infer_type = (header(record.headers, INFER_TYPE) or "").lower()
    kinds = [columns.REQUEST, columns.RESPONSE] if side is Side.INPUTS else [columns.RESPONSE, columns.REQUEST]
    if infer_type.endswith("request"):
        kinds = [columns.REQUEST]
    if infer_type.endswith("response"):
        kinds = [columns.RESPONSE]
    # No V2 message begins as JSON does: it would be its field 15.
    json = record.value.lstrip()[:1] == b"{"
    for kind in kinds:
        try:
            return (_from_json if json else _from_protobuf)(record.value, kind)
        except (InvalidInput, DecodeError, ValueError):
            continue
    return None


def _from_protobuf(value: bytes, kind: Kind) -> Any:
    message = kind.message.FromString(value)
    columns.to_typed(message, kind)
    return message


def _from_json(value: bytes, kind: Kind) -> Any:
    message = (rest_json.decode_request if kind is columns.REQUEST else rest_json.decode_response)(value)
    columns.to_typed(message, kind)
    return message
