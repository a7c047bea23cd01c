"""Records, topic names, headers and request ids: what the product reads and writes on Kafka."""

from __future__ import annotations

import base64
import itertools
import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from engine import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Ordered pairs, as Kafka keeps them: names may repeat, values may be null.
Headers: TypeAlias = "tuple[tuple[str, bytes | None], ...]"
# The same, where a list will do.
HeaderPairs: TypeAlias = "Sequence[tuple[str, bytes | None]]"

PIPELINE = "pipeline"
PIPELINE_VERSION = "x-pipeline-version"
REQUEST_ID = "x-request-id"
ROUTE = "x-seldon-route"

# Of W3C: which trace a request belongs to. They travel as X- headers do.
TRACE_PARENT = "traceparent"
TRACE_CONTEXT = (TRACE_PARENT, "tracestate", "baggage")
REPLY = "seldon-reply"
STEP = "seldon-step"
INFER_TYPE = "seldon-infer-type"
ERROR_STEP = "seldon-pipeline-errors"
ERROR_CODE = "seldon-error-code"
OFFSET = "seldon-offset"
REDRIVEN = "seldon-redriven"

# How an error is named on the wire: the name of its gRPC status (design.md, sections 5 and 7).
ERROR_CODES: dict[type[errors.RequestError], str] = {
    errors.InvalidInput: "INVALID_ARGUMENT",
    errors.UnknownResource: "NOT_FOUND",
    errors.NoOutput: "FAILED_PRECONDITION",
    errors.NoAnswer: "FAILED_PRECONDITION",
    errors.TooManyVisits: "FAILED_PRECONDITION",
    errors.TooLarge: "RESOURCE_EXHAUSTED",
    errors.Overloaded: "RESOURCE_EXHAUSTED",
    errors.ModelFailed: "INTERNAL",
    errors.Unreachable: "UNAVAILABLE",
    errors.TimedOut: "DEADLINE_EXCEEDED",
}
# What a name on the wire means to a caller, where several share it: a reply never says "no output" or "overloaded",
# the gateway does; and too many visits are one way to end without an answer, told apart by their text.
_SHARED = (errors.NoOutput, errors.TooManyVisits, errors.Overloaded)
_ERRORS_BY_CODE: dict[str, type[errors.RequestError]] = {
    code: kind for kind, code in ERROR_CODES.items() if kind not in _SHARED
}


def error_of(code: str, text: str, step: str | None) -> errors.RequestError:
    """The error that a record with these headers tells of; an unknown code is the model's failure."""
    return _ERRORS_BY_CODE.get(code, errors.ModelFailed)(text, step=step)


class Side(StrEnum):
    """Which of a resource's two topics."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"


class Owner(StrEnum):
    """What kind of resource a topic belongs to, or a call is for: an experiment has calls and no topics."""

    MODEL = "model"
    PIPELINE = "pipeline"
    EXPLAINER = "explainer"
    EXPERIMENT = "experiment"


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic name, `<prefix>.<namespace>.<owner>.<name>.<side>`."""

    prefix: str
    namespace: str
    owner: Owner
    name: str
    side: Side

    def __str__(self) -> str:
        return f"{self.prefix}.{self.namespace}.{self.owner}.{self.name}.{self.side}"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topic names of one namespace; its resources never see those of another."""

    prefix: str
    namespace: str

    def of(self, owner: Owner, name: str, side: Side) -> str:
        """The name of one of a resource's two topics."""
        return str(Topic(self.prefix, self.namespace, owner, name, side))

    @property
    def errors(self) -> str:
        """Where every failure of the namespace is told."""
        return f"{self.prefix}.{self.namespace}.errors.errors"

    @property
    def probe(self) -> str:
        """Where it is tried out whether the broker keeps aborted records back."""
        return f"{self.prefix}.{self.namespace}.probe"

    @property
    def replies(self) -> str:
        """Where answers to waiting callers are written."""
        return f"{self.prefix}.{self.namespace}.replies"

    def joins(self, pipeline: str) -> str:
        """The compacted topic of what a pipeline that others feed has and waits for partners of."""
        return f"{self.prefix}.{self.namespace}.{Owner.PIPELINE}.{pipeline}.joins"

    @property
    def resources(self) -> str:
        """The compacted topic that holds what is loaded."""
        return f"{self.prefix}.{self.namespace}.resources"

    @property
    def status(self) -> str:
        """The compacted topic on which instances tell the state of what they run."""
        return f"{self.prefix}.{self.namespace}.status"

    def group(self, owner: Owner, name: str) -> str:
        """The consumer group of a pipeline, or of all models when `name` is empty."""
        return f"{self.prefix}.{self.namespace}." + (f"{owner}.{name}" if name else "models")


_LEGAL_NAME = re.compile(r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?")
_LEGAL_PREFIX = re.compile(r"[A-Za-z0-9]([-_A-Za-z0-9]{0,61}[A-Za-z0-9])?")


def legal_name(name: str) -> bool:
    """Whether a resource may be called so: the embedded broker accepts any topic name, Kafka does not."""
    return _LEGAL_NAME.fullmatch(name) is not None


def legal_prefix(prefix: str) -> bool:
    """Whether topics may begin with it; a dot would let `a.b` + `c` collide with `a` + `b.c`."""
    return _LEGAL_PREFIX.fullmatch(prefix) is not None


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka message as we see it; `timestamp` in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def header(headers: Iterable[tuple[str, bytes | None]], name: str) -> str | None:
    """The first value of a header as text; None when it is absent or null."""
    for key, value in headers:
        if key == name:
            return None if value is None else value.decode("utf-8", "replace")
    return None


def reserved(name: str) -> bool:
    """Whether a header is ours to set, and so is not taken over from a caller or another pipeline."""
    return name in (PIPELINE, PIPELINE_VERSION) or name.startswith("seldon-")


# What means something to those who take up a request.
_MARKS = frozenset({PIPELINE, PIPELINE_VERSION, REQUEST_ID, ROUTE, REPLY, STEP, INFER_TYPE, ERROR_STEP})


class Sorted(NamedTuple):
    """A record's headers, looked at once: six looks at them were a sixth of all CPU of a request.

    travelling  those that go along to every step, in their order, repeated names kept
    marks       of those that mean something to us the first value of each name
    """

    travelling: list[tuple[str, bytes | None]]
    marks: dict[str, bytes | None]

    def text(self, name: str) -> str | None:
        """The value of a mark as text; None when it is absent or null."""
        value = self.marks.get(name)
        return None if value is None else value.decode("utf-8", "replace")


def sort_out(headers: Iterable[tuple[str, bytes | None]]) -> Sorted:
    """A record's headers for whoever takes it up.

    >>> sort_out([("x-a", b"1"), ("seldon-reply", b"0.i.7"), ("x-request-id", b"r")]).travelling
    [('x-a', b'1'), ('x-request-id', b'r')]
    """
    kept: list[tuple[str, bytes | None]] = []
    marks: dict[str, bytes | None] = {}
    for pair in headers:
        name = pair[0]
        if name in _MARKS:
            if name not in marks:
                marks[name] = pair[1]
            if name in (REQUEST_ID, ROUTE):
                kept.append(pair)
        elif not name.startswith("seldon-"):
            kept.append(pair)
    return Sorted(kept, marks)


def travelling(headers: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The headers that go along to every step, in their order, repeated names kept."""
    return sort_out(headers).travelling


# Bounded, since anybody may write a header and Python refuses to read a number of thousands of digits.
_REPLY_ADDRESS = re.compile(r"([0-9]{1,10})\.(.+)\.([0-9]{1,19})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """Who waits for an answer: a partition of the replies topic, a gateway instance, and its n-th call."""

    partition: int
    instance: str
    number: int

    def encode(self) -> bytes:
        """As the value of the header `seldon-reply`."""
        return f"{self.partition}.{self.instance}.{self.number}".encode()

    @staticmethod
    def parse(text: str) -> ReplyAddress | None:
        """None for a text that no gateway of ours wrote."""
        match = _REPLY_ADDRESS.fullmatch(text)
        return ReplyAddress(int(match[1]), match[2], int(match[3])) if match else None


_STANDARD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_HEX32 = b"0123456789abcdefghijklmnopqrstuv"
_TO_HEX32 = bytes.maketrans(_STANDARD, _HEX32)


def xid(seconds: int, machine: bytes, counter: int) -> str:
    """A request id: 4 bytes of time, 5 of machine and process, 3 of a counter, as 20 characters of 0-9a-v.

    >>> xid(0x4D88E15B, bytes.fromhex("60f486e428"), 0x412DC9)
    '9m4e2mr0ui3e8a215n4g'
    """
    raw = struct.pack(">I", seconds) + machine + (counter & 0xFFFFFF).to_bytes(3, "big")
    return base64.b32encode(raw).translate(_TO_HEX32)[:20].decode()


# The last of 20 characters has one bit of the 12 bytes.
_XID = re.compile(r"[0-9a-v]{19}[0g]")
_FROM_HEX32 = bytes.maketrans(_HEX32, _STANDARD)


def made_at(request_id: str) -> int | None:
    """When an id of the form that `xid` gives was made, in seconds since 1970; None for ids of another form.

    >>> made_at("9m4e2mr0ui3e8a215n4g") == 0x4D88E15B
    True
    """
    if _XID.fullmatch(request_id) is None:
        return None
    # Eight characters are five bytes, of which four are the time.
    head = base64.b32decode(request_id[:8].encode().translate(_FROM_HEX32))
    return int.from_bytes(head[:4], "big")


_PAIRS = [first + second for first in _HEX32.decode() for second in _HEX32.decode()]


class RequestIds:
    """Makes request ids that no other process makes.

    `machine` is five bytes that tell machine and process apart, `start` the first counter, `now` the clock in
    seconds since 1970.
    """

    def __init__(self, machine: bytes, start: int, now: Callable[[], float]) -> None:
        self._machine, self._now = machine, now
        self._counter = itertools.count(start)
        self._second, self._head, self._tail = -1, "", 0

    def new(self) -> str:
        """The next id: `xid` of the time and the counter, of which only the last six characters differ in a second."""
        second = int(self._now())
        if second != self._second:
            self._begin(second)
        bits = self._tail | (next(self._counter) & 0xFFFFFF) << 4
        return self._head + _PAIRS[bits >> 20] + _PAIRS[bits >> 10 & 0x3FF] + _PAIRS[bits & 0x3FF]

    def _begin(self, second: int) -> None:
        self._second = second
        self._head = xid(second, self._machine, 0)[:14]
        # The head holds 70 of the 72 bits of time and machine; the last two lead the tail of 30, which ends in zeros.
        self._tail = (self._machine[-1] & 0b11) << 28
