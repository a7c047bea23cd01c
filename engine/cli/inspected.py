"""How records are shown: a line each, as one JSON document, or as tables of their tensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.cli.moments import iso
from engine.cli.printing import plain, table
from engine.protocol.record import REQUEST_ID, Owner, Side, header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.inspect import Glance, Source, TopicRecords
    from engine.protocol.record import Record

# What --truncate leaves of a payload: enough to recognise it by, and a line of a terminal.
TRUNCATED = 120

# So many values of a tensor are shown in a table, and so many characters of one.
FIRST_VALUES = 8
LONGEST_VALUE = 40

RAW, JSON, TABLE = FORMS = ("raw", "json", "table")


def shown(found: Sequence[TopicRecords], form: str, *, verbose: bool, truncate: bool) -> list[str]:
    """The lines of one of the FORMS. `verbose` adds the records' headers, which JSON always has."""
    if form == JSON:
        return [_compact(_document(found, truncate=truncate))]
    if form == TABLE:
        return _tables(found, verbose=verbose, truncate=truncate)
    return _lines(found, verbose=verbose, truncate=truncate)


def _lines(found: Sequence[TopicRecords], *, verbose: bool, truncate: bool) -> list[str]:
    """A record on a line: topic, key, value, and by two tabs its headers."""
    lines = []
    for item in found:
        for record in item.records:
            value = _shown(record, item.source, truncate=truncate)
            text = plain(value) if isinstance(value, str) else _compact(value)
            line = f"{record.topic}\t{plain(_text(record.key))}\t{text}"
            if verbose:
                line += "\t\t" + _named(record)
            lines.append(line)
    return lines


def _named(record: Record) -> str:
    return "\t".join(f"{plain(name)}=[{plain(' '.join(values))}]" for name, values in _headers(record).items())


def _tables(found: Sequence[TopicRecords], *, verbose: bool, truncate: bool) -> list[str]:
    """Request by request, the oldest first, and each step by step as it went through the pipeline."""
    lines: list[str] = []
    for request_id, records in _by_request(found):
        lines += ["", f"request {plain(request_id)}"] if lines else [f"request {plain(request_id)}"]
        for record, source in records:
            lines += ["", f"{record.topic}\t{plain(_text(record.key))}\t{iso(record.timestamp, 'milliseconds')}"]
            lines += [_named(record)] if verbose else []
            lines += _table(record, source, truncate=truncate)
    return lines


def _by_request(found: Sequence[TopicRecords]) -> Iterator[tuple[str, list[tuple[Record, Source]]]]:
    requests: dict[str, list[tuple[Record, Source]]] = {}
    # A request comes in before it comes to a step; what the expression names begins with the steps.
    for item in sorted(found, key=lambda item: not _is_door(item.source)):
        for record in item.records:
            requests.setdefault(header(record.headers, REQUEST_ID) or "", []).append((record, item.source))
    yield from sorted(requests.items(), key=lambda item: min(record.timestamp for record, _ in item[1]))


def _is_door(source: Source) -> bool:
    return source.side is Side.INPUTS and f".{Owner.PIPELINE}." in source.topic


def _table(record: Record, source: Source, *, truncate: bool) -> list[str]:
    from engine.inspect import glances, text_of

    found = glances(record, source, FIRST_VALUES)
    if found is None:
        return [plain(_cut(text_of(record), truncate=truncate))]
    titles = ("tensor", "datatype", "shape", "values")
    return table(
        titles, [[plain(each.name), plain(each.datatype), _shape(each), _values(each)] for each in found]
    ).split("\n")


def _shape(tensor: Glance) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


def _values(tensor: Glance) -> str:
    more = [f"… {tensor.count} in all"] if tensor.count > len(tensor.values) else []
    return " ".join([*map(_value, tensor.values), *more])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        text = _text(value)
        short = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
        return plain(json.dumps(short, ensure_ascii=False))
    return str(value)


def _document(found: Sequence[TopicRecords], *, truncate: bool) -> dict[str, Any]:
    return {
        "topics": [
            {
                "name": item.source.topic,
                "msgs": [
                    {
                        "headers": _headers(record),
                        "key": _text(record.key),
                        "value": _shown(record, item.source, truncate=truncate),
                    }
                    for record in item.records
                ],
            }
            for item in found
        ]
    }


def _shown(record: Record, source: Source, *, truncate: bool) -> Any:
    """The value for people; a cut one is text, as no part of JSON is JSON."""
    from engine.inspect import readable

    value = readable(record, source)
    if not truncate:
        return value
    return _cut(value if isinstance(value, str) else _compact(value), truncate=True)


def _cut(text: str, *, truncate: bool) -> str:
    return f"{text[:TRUNCATED]}..." if truncate and len(text) > TRUNCATED else text


def _headers(record: Record) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in record.headers:
        found.setdefault(name, []).append(_text(value))
    return found


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")


def _compact(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
