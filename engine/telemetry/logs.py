"""Log lines: as text to be read, or as one JSON object a line to be collected, with the requests that they concern.

They never hold what callers sent. Errors of models repeat it, so of an error no text is told, only its kind and where
it happened; of the libraries beneath, those that would write whole messages are kept from it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from engine.errors import EngineError, RequestError
from engine.protocol.record import PIPELINE, REQUEST_ID, TRACE_PARENT, header

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Iterator, Sequence

    from engine.protocol.record import HeaderPairs

log = logging.getLogger(__name__)

# aiokafka says the same about a broker that is away many times a second; once in this time is enough.
SAME_LINE_SECONDS = 30.0

# A batch may be of thousands of requests, and an id of any length when it comes by Kafka.
MOST_REQUESTS, LONGEST_ID = 20, 200

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SAMPLED = re.compile(rb"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f][13579bdf](-.*)?")

# What was asked for and answered is told by these as it stands.
_TELL_WHOLE_MESSAGES = ("aiokafka.conn", "aiokafka.producer", "faust")

_REPEATING = ("aiokafka", "faust", "mode")

# Coordinators move and come back, and topics just made are not known everywhere at once: the client tries again by
# itself and says so as an error.
_RETRIED = ("cluster", "consumer.fetcher", "consumer.group_coordinator")


class Concern(NamedTuple):
    """Requests that lines are about, by the headers of each, and the step that they are at."""

    headers: Sequence[HeaderPairs]
    step: str = ""


# Those that the running task works for; of a line that names others, those count.
CONCERN: ContextVar[Concern | None] = ContextVar("concern", default=None)


def about(*headers: HeaderPairs, step: str = "") -> dict[str, object]:
    """The `extra` of a line that concerns the requests with these headers."""
    return {"concern": Concern(headers, step)}


def begin(level: str, form: str) -> None:
    """Have all lines from a level on written to standard error in a form; warnings and uncaught errors too."""
    handler = _ToStandardError()
    handler.addFilter(_OnceInAWhile())
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    # Whatever a library that was loaded before has set up would tell more.
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    if level != "DEBUG":
        for repeating in _REPEATING:
            logging.getLogger(repeating).setLevel(logging.ERROR)
        for retried in _RETRIED:
            logging.getLogger(f"aiokafka.{retried}").setLevel(logging.CRITICAL)
    for telling in _TELL_WHOLE_MESSAGES:
        logging.getLogger(telling).setLevel(max(logging.INFO, logging.getLogger(telling).getEffectiveLevel()))
    sys.excepthook = _uncaught
    threading.excepthook = _ended_thread
    sys.unraisablehook = _unraisable


def faulty_task(_: AbstractEventLoop, context: dict[str, Any]) -> None:
    """What an event loop calls for an error that nobody awaits: asyncio itself would print the error's text."""
    log.error("%s", context["message"], exc_info=context.get("exception"))


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("an error that nobody caught ends the process", exc_info=error)


def _ended_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not issubclass(ended.exc_type, SystemExit):
        name = ended.thread.name if ended.thread is not None else "unknown"
        log.error("an error ended the thread %s", name, exc_info=ended.exc_value)


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    log.error("an error could not be raised in a %s", type(found.object).__name__, exc_info=found.exc_value)


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time: above the status line while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


class _OnceInAWhile(logging.Filter):
    """Lets a warning or error of the same place through once in a while; the next one says how many were not."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        said, more = self._said.get(place, (-SAME_LINE_SECONDS, 0))
        if now - said < SAME_LINE_SECONDS:
            self._said[place] = said, more + 1
            return False
        self._said[place] = now, 0
        record.repeated = more
        return True


class _Text(logging.Formatter):
    """A line as people read it; what the line concerns stands behind it, the way of an error below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        found = _about(record)
        named = " ".join(f"{name}={_listed(value)}" for name, value in found.items())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"
        line = _shown(f"{line} [{named}]" if named else line)
        return "\n".join([line, *_way(record)])


class _Json(logging.Formatter):
    """A line as collectors read it: always one object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_about(record),
        }
        if way := _way(record):
            told["error"], told["traceback"] = way[-1], "\n".join(way)
        return json.dumps(told)


def _about(record: logging.LogRecord) -> dict[str, str | int | list[str]]:
    """What of requests is known of a line, by name."""
    found: dict[str, str | int | list[str]] = {}
    if repeated := getattr(record, "repeated", 0):
        found["not_repeated"] = repeated
    concern: Concern | None = getattr(record, "concern", None) or CONCERN.get()
    if concern is None:
        return found
    asked = concern.headers[:MOST_REQUESTS]
    pipelines = {name: None for headers in asked if (name := header(headers, PIPELINE))}
    if len(pipelines) == 1:
        found["pipeline"] = next(iter(pipelines))
    if concern.step:
        found["step"] = concern.step
    if ids := [text[:LONGEST_ID] for headers in asked if (text := header(headers, REQUEST_ID))]:
        found["request_ids"] = ids
    if len(concern.headers) > len(asked):
        found["requests"] = len(concern.headers)
    if traces := [trace for headers in asked if (trace := _trace(headers))]:
        found["trace_ids"] = traces
    return found


def _trace(headers: HeaderPairs) -> str | None:
    """The trace of a request that is sampled: nothing stands under another one."""
    for name, value in headers:
        if name == TRACE_PARENT and value and (found := _SAMPLED.fullmatch(value)):
            return found["trace"].decode()
    return None


def _way(record: logging.LogRecord) -> list[str]:
    """The error of a line: where it was raised, and last its kind."""
    error = record.exc_info[1] if record.exc_info else None
    return [] if error is None else [line for part in _raised(error) for line in part.splitlines()]


def _raised(error: BaseException) -> Iterator[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _raised(before)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    yield from traceback.format_tb(error.__traceback__)
    if isinstance(error, BaseExceptionGroup):
        for number, each in enumerate(error.exceptions, 1):
            yield f"error {number} of {len(error.exceptions)}:"
            yield from _raised(each)
    yield _told(error)


def _told(error: BaseException) -> str:
    """The kind of an error, and its text where that is ours or the system's and so repeats nothing of a request."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, EngineError) and not isinstance(error, RequestError):
        return _shown(f"{name}: {error}")
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: {os.strerror(error.errno)}"
    return name


def _listed(value: str | int | list[str]) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _shown(text: str) -> str:
    """A text on one line: what a caller chose must not look like a line of ours."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
