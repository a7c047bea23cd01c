"""Asks a remote runtime as the data plane does: rows of one INT64 each."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import RequestError
from engine.protocol.columns import Columns, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.protocol.record import HeaderPairs
    from engine.runtimes.contract import Part
    from engine.runtimes.remote import RemoteRuntime


def columns(*rows: int) -> Columns:
    return Columns(
        [b"\x1a\x01%d" % row for row in rows], (TensorSpec("x", "INT64", (1,)),), (np.array([rows], "<i8").T,)
    )


async def ask(
    runtime: RemoteRuntime, asked: Columns, *headers: HeaderPairs, timeout: float = 5.0
) -> list[tuple[Any, HeaderPairs]]:
    """For each row its number or error, and the headers that came with it."""
    found: dict[int, tuple[Any, HeaderPairs]] = {}
    async for part in runtime.infer(asked, headers or [()] * len(asked), timeout):
        for place, row in enumerate(part.rows):
            assert row not in found
            found[row] = (_outcome(part, place, asked.ids[row]), part.headers[place] if part.headers else ())
    assert sorted(found) == list(range(len(asked)))
    return [found[row] for row in range(len(asked))]


def _outcome(part: Part, place: int, row_id: bytes) -> Any:
    if isinstance(part.outcome, RequestError):
        return part.outcome
    assert part.outcome.ids[place] == row_id
    return int(part.outcome.array(0, place)[0])


def outcomes(found: Sequence[tuple[Any, HeaderPairs]]) -> list[Any]:
    return [outcome for outcome, _ in found]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
