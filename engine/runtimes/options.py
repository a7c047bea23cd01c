"""The parameters of a Model that say how it is called; all others are its own runtime's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from engine.resources import Model, Problem

MAX_BATCH_SIZE, MAX_BATCH_DELAY, THREADS, PROCESSES = "max_batch_size", "max_batch_delay_ms", "threads", "processes"

DEFAULT_THREADS = 4

# Bounded, since Python refuses to read a number of thousands of digits.
_COUNT = re.compile("0*[1-9][0-9]{0,8}")
_MILLISECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is called.

    max_rows   stack requests to so many rows of the first dimension in a call; None: each is its own call
    delay      seconds that a stack which is not full waits for more
    processes  so many of their own compute, each one call at once; 0: threads of this process do
    threads    calls at once; of a remote model, stacks that are out at once
    """

    max_rows: int | None
    delay: float
    processes: int
    threads: int

    @classmethod
    def of(cls, model: Model) -> Self:
        """The options of a checked model."""
        written = dict(model.parameters)
        rows, processes = written.get(MAX_BATCH_SIZE), int(written.get(PROCESSES, 0))
        threads = processes or int(written.get(THREADS, DEFAULT_THREADS))
        return cls(int(rows) if rows else None, float(written.get(MAX_BATCH_DELAY, 0)) / 1000, processes, threads)


def others(model: Model) -> dict[str, str]:
    """The parameters that are not ours."""
    ours = (MAX_BATCH_SIZE, MAX_BATCH_DELAY, THREADS, PROCESSES)
    return {name: value for name, value in model.parameters if name not in ours}


def check(model: Model) -> list[Problem]:
    """The faults of the options as they are written."""
    problems = []
    refuse = model.document.problem
    written = dict(model.parameters)
    for index, (name, value) in enumerate(model.parameters):
        place = ("spec", "parameters", index, "value")
        if name in (MAX_BATCH_SIZE, THREADS, PROCESSES) and not _COUNT.fullmatch(value):
            problems.append(refuse(place, f'parameter "{name}" is "{value}"; it must be a whole number above 0'))
        if name == MAX_BATCH_DELAY and not _MILLISECONDS.fullmatch(value):
            problems.append(refuse(place, f'parameter "{name}" is "{value}"; it must be a number of milliseconds'))
        if name == MAX_BATCH_DELAY and MAX_BATCH_SIZE not in written:
            text = f'parameter "{name}" says how long requests wait to be stacked, and nothing says that they are'
            problems.append(refuse((*place[:-1], "name"), text, f'add the parameter "{MAX_BATCH_SIZE}"'))
        if name == PROCESSES and THREADS in written:
            text = f'parameters "{PROCESSES}" and "{THREADS}" do not go together: a process makes one call at once'
            problems.append(refuse((*place[:-1], "name"), text))
    return problems
