"""How an error is told to a caller: its HTTP status, its gRPC status and its text, in this one place."""

from __future__ import annotations

from typing import NamedTuple

import grpc

from engine import errors


class Status(NamedTuple):
    """What a caller gets through either door."""

    http: int
    grpc: grpc.StatusCode


STATUSES: dict[type[errors.RequestError], Status] = {
    errors.InvalidInput: Status(400, grpc.StatusCode.INVALID_ARGUMENT),
    errors.UnknownResource: Status(404, grpc.StatusCode.NOT_FOUND),
    errors.NoOutput: Status(400, grpc.StatusCode.FAILED_PRECONDITION),
    errors.NoAnswer: Status(422, grpc.StatusCode.FAILED_PRECONDITION),
    errors.TooManyVisits: Status(422, grpc.StatusCode.FAILED_PRECONDITION),
    errors.TooLarge: Status(413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.Overloaded: Status(429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.ModelFailed: Status(500, grpc.StatusCode.INTERNAL),
    errors.Unreachable: Status(503, grpc.StatusCode.UNAVAILABLE),
    errors.TimedOut: Status(504, grpc.StatusCode.DEADLINE_EXCEEDED),
}
INTERNAL = Status(500, grpc.StatusCode.INTERNAL)
INTERNAL_TEXT = "internal error; the gateway's log has the reason"

# A gateway that is full has answered some of its calls by then: callers that come back sooner are mostly refused again.
RETRY_AFTER_SECONDS = 1

# gRPC percent-encodes a status' text into a header, which triples a byte at worst, and clients refuse
# trailers above 8 KiB: the caller would see that refusal in place of the error.
_LONGEST_GRPC_TEXT = 2048


def status_of(error: errors.RequestError) -> Status:
    """The statuses of an error; a subclass has those of the class it narrows."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return INTERNAL


def retry_after(error: errors.RequestError) -> int | None:
    """Seconds after which a caller may try again; None where that would change nothing."""
    return RETRY_AFTER_SECONDS if isinstance(error, errors.Overloaded) else None


def text_of(error: errors.RequestError) -> str:
    """What the caller reads: the step that failed, when there is one, and why."""
    return f"{error.step} : {error.text}" if error.step else error.text


def grpc_text(text: str) -> str:
    """A text that fits into the trailers of a gRPC call."""
    data = text.encode("utf-8", "replace")
    if len(data) <= _LONGEST_GRPC_TEXT:
        return data.decode()
    return data[:_LONGEST_GRPC_TEXT].decode("utf-8", "ignore") + "…"
