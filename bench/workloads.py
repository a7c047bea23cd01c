"""Works of other kinds than tfsimples, exactly once: what a request costs, beside the bare loop where that can."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import works
from bench.contenders import bare, ours
from bench.failures import told
from bench.processes import Process
from bench.throughput import Row, run_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.broker import Bench

PORT = (r"port (\d+)",)
DELAY_MS = 5


@dataclass(slots=True)
class Loaded:
    """A row, and for one with a remote server the CPU of that, per request and in each run."""

    row: Row
    server_us: list[float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Requests of a work whose models are in the worker, of one that calls a server for each, and of 1 MB each.

    pipelines   how many run at once; the local requests are a multiple of it
    """

    local: int
    remote: int
    tensors: int
    pipelines: int


def measure(
    bench: Bench, sizes: Sizes, rounds: int, progress: Callable[[str], None], failed: list[str]
) -> list[Loaded]:
    """Every work by ours and, where it has no branches, by the bare loop: in turn, `rounds` times."""
    once = ours("exactly once"), bare("exactly once")
    with Process([sys.executable, "-m", "bench.peers.v2_server"], DELAY_MS=str(DELAY_MS)) as server:
        [port] = server.wait_for(PORT)
        address = f"127.0.0.1:{port[1]}"
        pairs = [(works.tfsimples(), sizes.local), (works.texts(), sizes.local), (works.tensors(), sizes.tensors)]
        rows = [Row(contender, work, "raw", records) for work, records in pairs for contender in once]
        alone = (works.join(), works.conditional(), works.many_pipelines(sizes.pipelines))
        rows += [Row(once[0], work, "raw", sizes.local) for work in alone]
        remote = [make(address, stacked=stacked) for make in REMOTE for stacked in (False, True)]
        # Stacked they are as fast as local ones.
        rows += [Row(once[0], work, "raw", sizes.local if "stacked" in work.name else sizes.remote) for work in remote]
        loaded = [Loaded(row, []) for row in rows]
        for number in range(1, rounds + 1):
            for each in loaded:
                row = each.row
                step = f"round {number} of {rounds}: {row.work.name} by {row.contender.title}"
                progress(step)
                before = server.cpu_seconds()
                with told(failed, step):
                    run_once(bench, row, f"{row.contender.name}-{row.work.name}-{number}")
                    if row.work in remote:
                        each.server_us.append((server.cpu_seconds() - before) / row.records * 1e6)
        server.check()
    return [each for each in loaded if each.row.runs]


REMOTE = (works.remote_slow, works.remote_chain)
