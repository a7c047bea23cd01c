"""The product's command line, in a process that can be told to stop or die at a point of its next transaction.

`python launch.py ARM_FILE seldon-arguments...`: when ARM_FILE appears with `SIGNAL POINT` in it, it is removed and the
process sends itself that signal at that point: `begin` (polled and computed, nothing sent), `begun` (the coordinator
knows what the transaction has), `offsets` (after TxnOffsetCommit), `records` (everything is sent, EndTxn is not).
`HANG fetch`: the chain's consumer reads nothing any more. With UNFENCED=1 in the environment offsets are committed as
aiokafka's own producer does it, without a generation, and read without waiting for open transactions: this is the
negative control, in which the suite must find duplicates. At SIGUSR2 the clock is set by what the file `clock` says; at
SIGUSR1 the number of asyncio's tasks is written to the file `tasks`, both beside the arm file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from engine.cli import main
from engine.kafka import offsets, transactions, transport
from engine.kafka.leases import NOBODY

ARM = Path(sys.argv[1])


def armed(point: str) -> str:
    """What the arm file says to do at this point, once; empty when it says nothing."""
    try:
        said = ARM.read_text().split()
        if said[1:] != [point]:
            return ""
        ARM.unlink()
    except FileNotFoundError:  # nobody has asked, or another worker was first
        return ""
    return said[0]


def reach(point: str) -> None:
    """Do here what the arm file says, if it says so."""
    if name := armed(point):
        os.kill(os.getpid(), signal.Signals[name])


def instrument() -> None:
    """Put the points between the steps of a transaction."""
    begin, send_offsets = transactions.Producer.begin, transactions.Producer.send_offsets
    produce = transactions.Producer.produce
    fetch = offsets.GroupOffsets.fetch
    unfenced = os.environ.get("UNFENCED") == "1"

    async def begun(self: Any, group: str, places: Any) -> None:
        reach("begin")
        await begin(self, group, places)
        reach("begun")

    async def sent(self: Any, group: str, membership: Any, offsets: Any) -> None:
        await send_offsets(self, group, NOBODY if unfenced else membership, offsets)
        reach("offsets")

    async def produced(self: Any, records: Any) -> Any:
        ends = await produce(self, records)
        reach("records")
        return ends

    async def fetched(self: Any, group: str, partitions: Any, *, stable: bool) -> Any:
        return await fetch(self, group, partitions, stable=stable and not unfenced)

    fetch_records = transport._ConsumerThread._fetch_records

    async def hanging(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.app.conf.id.endswith(".chain") and armed("fetch"):
            await asyncio.Event().wait()
        return await fetch_records(self, *arguments, **named)

    transport._ConsumerThread._fetch_records = hanging  # type: ignore[method-assign]
    transactions.Producer.begin = begun  # type: ignore[method-assign]
    transactions.Producer.send_offsets = sent  # type: ignore[method-assign]
    transactions.Producer.produce = produced  # type: ignore[method-assign]
    offsets.GroupOffsets.fetch = fetched  # type: ignore[method-assign]


def tell_tasks(*_: object) -> None:
    """How many tasks there are, of all loops; those of other threads come and go while they are counted."""
    tasks = None
    while tasks is None:
        with contextlib.suppress(RuntimeError):
            tasks = list(asyncio.tasks._all_tasks)  # type: ignore[attr-defined]
    count = sum(not task.done() for task in tasks)
    told = ARM.with_name("tasks.new")
    told.write_text(str(count))
    told.rename(ARM.with_name("tasks"))


class WallClock:
    """The wall clock of this process alone, which can be set: by as many seconds as the file `clock` says."""

    def __init__(self) -> None:
        self._now, self._by = time.time, 0.0

    def __call__(self) -> float:
        return self._now() + self._by

    def set(self, *_: object) -> None:
        told = ARM.with_name("clock")
        self._by += float(told.read_text())
        told.unlink()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell_tasks)
    # Before anybody has taken the real one.
    time.time = clock = WallClock()  # type: ignore[assignment]
    signal.signal(signal.SIGUSR2, clock.set)
    instrument()
    sys.argv = ["seldon", *sys.argv[2:]]
    main()
