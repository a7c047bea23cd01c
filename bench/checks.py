"""What it costs to read and to compile a pipeline, per step: ten times the steps must cost about ten times as much."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.app import read
from engine.dataflow.compiler import compile_pipeline
from engine.errors import InvalidResources
from engine.resources import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A file of ten times as many is refused: it has more values than are read of one text.
STEPS = (800, 8_000)
FEW = (80, 800)
TRIES = 3
HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {name: many}\nspec:\n  steps:\n    - name: s0\n"


@dataclass(frozen=True, slots=True)
class Check:
    """CPU of a check, per step, for each number of steps."""

    what: str
    us_per_step: dict[int, float]

    @property
    def growth(self) -> float:
        least, *_, most = self.us_per_step.values()
        return most / least


def measure(steps: Sequence[int]) -> list[Check]:
    """Pipelines of so many steps: sound ones, and such where each step has a fault."""
    kinds = {
        "a chain": "name: s{}, inputs: [s{}]",
        "no step known": "name: s{}, inputs: [t{}]",
        "no field known": "name: s{}, input: [s{}]",
    }
    with tempfile.TemporaryDirectory() as folder:
        return [Check(what, {count: _us(Path(folder), step, count) for count in steps}) for what, step in kinds.items()]


def _us(folder: Path, step: str, count: int) -> float:
    """The least of some tries: other work on the machine only adds to it."""
    path = folder / "many.yaml"
    path.write_text(HEAD + "".join(f"    - {{{step.format(n, n - 1)}}}\n" for n in range(1, count)))
    return min(_seconds(lambda: _check(path)) for _ in range(TRIES)) / count * 1e6


def _check(path: Path) -> None:
    try:
        [pipeline] = read([path], alone=True).resources
    except InvalidResources:
        return
    assert isinstance(pipeline, Pipeline)
    compile_pipeline(pipeline)


def _seconds(work: Callable[[], None]) -> float:
    since = time.process_time()
    work()
    return time.process_time() - since
