"""Callers of a pipeline who never pause."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from product import infer, inputs, wait_until

if TYPE_CHECKING:
    from product import Response


class Callers:
    """Callers who ask without a pause, each the next when it is answered, until the block ends."""

    def __init__(self, address: str, count: int = 2) -> None:
        self.answers: list[Response] = []
        self._address, self._over = address, threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(count)]

    def _call(self) -> None:
        while not self._over.is_set():
            self.answers.append(infer(self._address, "pipelines/numbers", inputs(INPUT=[1])))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def some(self, value: int, count: int = 20) -> None:
        """Wait until `count` more answers of this value have come."""
        have = self._count(value)
        wait_until(
            lambda: self._count(value) >= have + count,
            lambda: f"{count} answers of {value}; the last were {[str(a) for a in self.answers[-3:]]}",
            20,
        )

    def _count(self, value: int) -> int:
        return sum(answer.status == 200 and answer.output("OUTPUT") == [value] for answer in list(self.answers))
