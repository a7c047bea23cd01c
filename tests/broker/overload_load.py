"""Ten times what a product can do, by callers and by producers at once, and what became of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from product import CALL_DEADLINE, environment

OVERLOADED = Path(__file__).resolve().parent / "overload"
CALLS = Path(__file__).resolve().parent / "overload_calls.py"

# Two threads of the model, each busy for so long with a request: twenty-five requests a second.
MODEL_SECONDS = 0.08
CAPACITY = 2 / MODEL_SECONDS
TIMES = 10

# Calls that wait, and bytes of records that are being worked on: far fewer than come.
PLACES = 40
SETTINGS = {
    "OVERLOAD_MODEL_SECONDS": str(MODEL_SECONDS),
    "SELDON_MAX_IN_FLIGHT": str(PLACES),
    "SELDON_BUDGET_BYTES": "2000000",
}


@dataclass(frozen=True)
class Calls:
    """How the calls of one door ended: seconds of those answered and of those refused, what was said to the others."""

    answered: list[float]
    refused: list[float]
    wrong: list[str]

    @property
    def count(self) -> int:
        return len(self.answered) + len(self.refused) + len(self.wrong)

    @property
    def figures(self) -> dict[str, float]:
        """Milliseconds."""
        return {
            "answered": len(self.answered),
            "refused": len(self.refused),
            "answered_p50_ms": median(self.answered) * 1e3,
            "answered_p99_ms": p99(self.answered) * 1e3,
            "refused_p50_ms": median(self.refused) * 1e3,
            "refused_p99_ms": p99(self.refused) * 1e3,
        }


def p99(seconds: list[float]) -> float:
    return quantiles(seconds, n=100)[98]


class Calling:
    """The callers' process, from its start on."""

    def __init__(self, address: str, seconds: float) -> None:
        self._sent, self._seconds = int(CAPACITY * TIMES * seconds), seconds
        command = [sys.executable, str(CALLS), address, "called", str(CAPACITY * TIMES), str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())

    def ends(self) -> dict[str, Calls]:
        """By door, once the last call has ended; fails when one of them got no answer at all."""
        out, _ = self._process.communicate(timeout=self._seconds + 2 * CALL_DEADLINE)
        told: dict[str, Any] = json.loads(out)
        assert not told.pop("failed")[:3]
        found = {door: Calls(**ends) for door, ends in told.items()}
        assert sum(calls.count for calls in found.values()) == self._sent
        return found


def check(calls: Calls) -> None:
    """Each call was answered, or refused with a time to come back, and that was an overload."""
    assert not calls.wrong, calls.wrong[:3]
    assert calls.answered
    assert len(calls.refused) > len(calls.answered), "that was no overload"


def check_times(calls: Calls) -> None:
    """What was refused came at once, and what was accepted waited for its places: on a machine to itself."""
    assert median(calls.refused) < median(calls.answered) / 4
    assert p99(calls.answered) < 10 * PLACES / CAPACITY
