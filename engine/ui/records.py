"""A record of a request as the page shows it: where it stood, when, and what it held, in a bounded size."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.inspect import message_of, text_of
from engine.protocol.record import ERROR_CODE, ERROR_STEP, PIPELINE, Owner, Side, header
from engine.ui.glimpses import glimpses
from engine.ui.graphs import of_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.inspect import Source
    from engine.protocol.record import Record

Data: TypeAlias = "dict[str, Any]"

# What is shown of an error's text, of a header's value, and how many headers.
LONGEST_ERROR = 10_000
LONGEST_HEADER = 1000
MOST_HEADERS = 100

# More JSON than this takes too long to read for a look at some of its elements.
MOST_JSON = 1 << 20


def shown(record: Record, source: Source) -> Data:
    """What the page shows of a record."""
    node, side = _place(record, source)
    error = failure(record)
    tensors, note = _tensors(record, source) if error is None else ([], "")
    return {
        "node": node,
        "side": side,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "at": record.timestamp / 1000,
        "bytes": len(record.value or b""),
        "error": error,
        "note": note,
        "headers": [[_text(name.encode()), _text(value)] for name, value in record.headers[:MOST_HEADERS]],
        "tensors": tensors,
    }


def failure(record: Record) -> Data | None:
    """The error that a record tells of; None when it tells of none."""
    step = header(record.headers, ERROR_STEP)
    if step is None:
        return None
    message = text_of(record)[:LONGEST_ERROR]
    return {"status": header(record.headers, ERROR_CODE), "step": step, "message": message}


def in_order(records: Iterable[Data], topics: Sequence[str]) -> list[Data]:
    """Records of a request in the order in which it went: those that were written at once stand in that of the plan.

    topics   in the order of the plan, as `inspect` has them
    """
    visits: dict[str, int] = {}
    keyed = []
    for record in sorted(records, key=lambda record: (record["topic"], record["partition"], record["offset"])):
        topic = record["topic"]
        visit = visits[topic] = visits.get(topic, 0) + 1
        # Of a pipeline's own topics, the one is before all steps and the other behind them.
        part = 1 if "." not in record["node"] else 0 if record["side"] == Side.INPUTS else 2
        keyed.append(((record["at"], part, visit, topics.index(topic)), record))
    return [record for _, record in sorted(keyed, key=itemgetter(0))]


def _place(record: Record, source: Source) -> tuple[str, str]:
    """The node of the graph that a record belongs to, and which of its sides."""
    if source.side is None:
        pipeline, step = header(record.headers, PIPELINE) or "", header(record.headers, ERROR_STEP)
        return (of_pipeline(pipeline, Side.OUTPUTS) if step in (None, pipeline) else str(step)), str(Side.OUTPUTS)
    _, owner, name, side = record.topic.rsplit(".", 3)
    return (of_pipeline(name, source.side) if owner == Owner.PIPELINE else name), side


def _tensors(record: Record, source: Source) -> tuple[list[Data], str]:
    value = record.value or b""
    if len(value) > MOST_JSON and value.lstrip()[:1] == b"{":
        return [], f"{len(value):,} bytes of JSON, too many to be looked into"
    message = message_of(record, source.side, typed=False)
    if message is None:
        return [], f"no V2 message: {text_of(record)[:LONGEST_HEADER]}"
    return glimpses(message), ""


def _text(value: bytes | None) -> str:
    return (value or b"")[: LONGEST_HEADER * 4].decode("utf-8", "backslashreplace")[:LONGEST_HEADER]
