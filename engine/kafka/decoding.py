"""Record values as columns of requests: protobuf or JSON, as their `seldon-infer-type` says or as they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import InvalidInput, TooLarge
from engine.protocol import columns as col
from engine.protocol import rest_json
from engine.protocol.record import INFER_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.errors import RequestError


class Group:
    """Rows of a poll that agree: their numbers, columns, and whether they came as JSON."""

    __slots__ = ("columns", "json", "rows")

    def __init__(self, rows: list[int], columns: col.Columns, *, json: bool) -> None:
        self.rows, self.columns, self.json = rows, columns, json


def decode(
    values: Sequence[tuple[bytes, str | None]], written: col.Kind | None = None, *, most_bytes: int
) -> tuple[list[Group], list[tuple[int, RequestError]]]:
    """Record values with their `seldon-infer-type` as columns, and the rows that are refused.

    A value without a type is what we have `written` there. When anybody may have written it, it is a protobuf request,
    else JSON, a response where it has outputs and no inputs, else a protobuf response. One of more than `most_bytes`
    is not looked at: a topic may take more than we do.
    """
    by_type: dict[str | None, list[int]] = {}
    groups: list[Group] = []
    refused: list[tuple[int, RequestError]] = []
    for row, (value, infer_type) in enumerate(values):
        if len(value) > most_bytes:
            refused.append((row, TooLarge(f"the request takes {len(value)} bytes; the limit is {most_bytes}")))
            continue
        by_type.setdefault(infer_type.lower() if infer_type else None, []).append(row)
    for infer_type, rows in by_type.items():
        raw = [values[row][0] for row in rows]
        if infer_type is None:
            found, left = _guess(raw) if written is None else _from_protobuf(raw, written)
        elif infer_type in _READERS:
            kind, json = _READERS[infer_type]
            found, left = (_from_json if json else _from_protobuf)(raw, kind)
        else:
            known = ", ".join(INFER_TYPES)
            error = InvalidInput(f'header {INFER_TYPE} is "{infer_type}"; known are {known}')
            found, left = [], [(row, error) for row in range(len(raw))]
        groups += [Group([rows[row] for row in group.rows], group.columns, json=group.json) for group in found]
        refused += [(rows[row], error) for row, error in left]
    return groups, refused


INFER_TYPES = (
    "json/inferModelRequest",
    "json/inferModelResponse",
    "proto/InferModelRequest",
    "proto/InferModelResponse",
)
_READERS = {
    name.lower(): (col.REQUEST if name.endswith("Request") else col.RESPONSE, name.startswith("json"))
    for name in INFER_TYPES
}

_Decoded = tuple[list[Group], list[tuple[int, InvalidInput]]]


def _from_protobuf(values: Sequence[bytes], kind: col.Kind) -> _Decoded:
    groups, refused = col.decode(values, kind)
    return [Group(rows, columns, json=False) for rows, columns in groups], list(refused)


def _from_json(values: Sequence[bytes], kind: col.Kind) -> _Decoded:
    groups: list[Group] = []
    refused: list[tuple[int, InvalidInput]] = []
    read = rest_json.decode_request if kind is col.REQUEST else rest_json.decode_response
    for row, value in enumerate(values):
        try:
            groups.append(Group([row], col.from_message(read(value), kind), json=True))
        except InvalidInput as error:
            refused.append((row, error))
    return groups, refused


def _guess(values: Sequence[bytes]) -> _Decoded:
    groups, refused = _from_protobuf(values, col.REQUEST)
    left = []
    for row, error in refused:
        found, problem = _guess_other(values[row], error)
        if problem is None:
            groups += [Group([row], group.columns, json=group.json) for group in found]
        else:
            left.append((row, problem))
    return groups, left


def _guess_other(value: bytes, error: InvalidInput) -> tuple[list[Group], InvalidInput | None]:
    """A value that is no protobuf request as what it may be besides, or why it is none of all."""
    if value.lstrip()[:1] == b"{":
        answers = b'"outputs"' in value and b'"inputs"' not in value
        found, problems = _from_json([value], col.RESPONSE if answers else col.REQUEST)
    else:
        found, problems = _from_protobuf([value], col.RESPONSE)
        # When it is neither, what a request lacked is what its writer wants to know.
        problems = [(row, error) for row, _ in problems]
        # A request with typed contents looks like a response, in which alone a name may stand twice.
        problems += [(0, error) for group in found if group.columns.repeated or col.is_request(value)]
    return found, problems[0][1] if problems else None
