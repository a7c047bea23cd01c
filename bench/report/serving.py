"""Tables of models called directly beside MLServer's, of stacked calls, and of checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report.table import Table
from bench.serving import CALLERS, JSON, MLSERVER, SHAPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.checks import Check
    from bench.serving import Calls, Stacking

GROWTH = 3.0
SERVED = 1.0
STACKED = 5.0


def serving(measured: Sequence[Calls]) -> list[Table]:
    """Each way of calling beside MLServer's; beside its JSON where it has no such way."""
    theirs = {each.payload: each for each in measured if each.server == MLSERVER}
    rows = []
    for each in measured:
        peer = theirs.get(each.payload, theirs[JSON])
        ours = each.server != MLSERVER
        rows.append(
            (
                f"{each.server}, {each.payload}",
                f"{each.calls}",
                f"{each.cpu_ms:.2f}",
                f"{each.median_ms:.2f}",
                f"{each.cpu_ms / peer.cpu_ms:.2f}" if ours else "",
                f"at most {SERVED:g}" if ours else "",
            )
        )
    columns = ("one call after the other", "calls", "CPU ms each", "median ms", "CPU / MLServer's", "wanted")
    note = (
        "All processes of a server count. MLServer runs the model in its one process, and has no binary tensors over "
        "REST: ours are held against its JSON."
    )
    title = f"A Python model called directly with an FP32 tensor of {list(SHAPE)}, beside MLServer"
    return [Table(title, columns, rows, (note,))]


def stacking(measured: Sequence[Stacking]) -> list[Table]:
    rows = [
        (
            each.where,
            f"{each.calls:,}",
            f"{each.single:,.0f}",
            f"{each.stacked:,.0f}",
            f"{each.stacked / each.single:.2f}",
            f"over {STACKED:g}" if each is measured[0] else "",
        )
        for each in measured
    ]
    columns = (f"{CALLERS} callers at a time", "calls", "one call each, /s", "stacked, /s", "ratio", "wanted")
    return [Table("Calls of the iris sample stacked, one row each", columns, rows)]


def checks(measured: Sequence[Check]) -> list[Table]:
    if not measured:
        return []
    rows = [
        (check.what, *(f"{each:.1f}" for each in check.us_per_step.values()), f"{check.growth:.2f}", f"{GROWTH:g}")
        for check in measured
    ]
    columns = ("", *(f"µs a step of {steps:,}" for steps in measured[0].us_per_step), "ratio", "wanted under")
    return [Table("Reading and compiling a pipeline of many steps", columns, rows)]
