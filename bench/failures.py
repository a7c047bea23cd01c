"""What goes wrong with one measurement is told at the end, beside the figures of all others: they took an hour."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def told(failed: list[str], what: str) -> Iterator[None]:
    """Go on after a process that ended, an answer that is not right, or a broker that gave none."""
    try:
        yield
    except (RuntimeError, ValueError, KafkaException, TimeoutError) as failure:
        failed.append(f"{what}: {failure or type(failure).__name__}")
