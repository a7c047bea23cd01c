"""The header `x-seldon-route`: who answered a request, told to its caller, who sends it again to be answered so again.

A model is `:NAME_VERSION:`, a pipeline `:NAME.pipeline:`, each a value of its own; who joins them loses nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.protocol.record import ROUTE, Owner

if TYPE_CHECKING:
    from engine.protocol.record import HeaderPairs, Headers

__all__ = ["ROUTE", "named", "of", "only", "without"]

_ENTRY = re.compile(":([^:]+):")
_PIPELINE = ".pipeline"


def of(owner: Owner, name: str, version: int) -> bytes:
    """The value for one that answered; an explainer is a model.

    >>> of(Owner.MODEL, "iris", 1), of(Owner.PIPELINE, "flowers", 3)
    (b':iris_1:', b':flowers.pipeline:')
    """
    return f":{name}{_PIPELINE}:".encode() if owner is Owner.PIPELINE else f":{name}_{version}:".encode()


def named(headers: HeaderPairs, owner: Owner) -> frozenset[str]:
    """The models, or the pipelines, that headers name, whatever their versions: one loaded anew is the same to callers.

    >>> sorted(named([("x-seldon-route", b":iris_1::old_iris_12:, :flowers.pipeline:")], Owner.MODEL))
    ['iris', 'old_iris']
    """
    entries = [entry for value in _values(headers) for entry in _ENTRY.findall(value.decode("ascii", "replace"))]
    if owner is Owner.PIPELINE:
        return frozenset(entry.removesuffix(_PIPELINE) for entry in entries if entry.endswith(_PIPELINE))
    versioned = (entry.rpartition("_") for entry in entries)
    return frozenset(name for name, _, version in versioned if name and version.isdecimal())


def only(headers: HeaderPairs) -> Headers:
    """The routes among headers, each once, in their order."""
    values = _values(headers)
    return tuple((ROUTE, value) for value in dict.fromkeys(values)) if values else ()


def without(headers: HeaderPairs) -> Headers:
    """The headers that are no routes."""
    return tuple(pair for pair in headers if pair[0] != ROUTE)


def _values(headers: HeaderPairs) -> list[bytes]:
    return [value for name, value in headers if name == ROUTE and value is not None]
