"""The contract between the data plane and whatever computes a model's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.errors import RequestError
    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs, Headers


@dataclass(frozen=True, slots=True)
class Part:
    """What a call gives for some of its rows, as soon as it is known.

    rows      the rows of the call that this part answers, in the order of its columns
    outcome   the answers, row by row, or the error that all these rows share
    headers   for each row the X- headers that the model added to its answer; None when it added none
    """

    rows: Sequence[int]
    outcome: Columns | RequestError
    headers: Sequence[Headers] | None = None


class Runtime(Protocol):
    """That which computes responses for requests of one model."""

    async def load(self) -> None:
        """Make the model ready. RuntimeUnavailable says why it cannot be."""

    async def unload(self) -> None:
        """Free what the model holds; calls that are out end with an error."""

    async def ready(self) -> bool:
        """Whether the model would answer a request now."""

    async def metadata(self) -> Any:
        """What is known of the model's tensors, as a `ModelMetadataResponse`."""

    def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        """Answers for every row, in parts that need not wait for each other.

        `headers` holds each row's travelling headers, `timeout` bounds each row's call in seconds. A row's failure
        is a part of its own and is never raised.
        """


class Explained(Protocol):
    """What an explainer explains: another model, or a pipeline."""

    @property
    def title(self) -> str:
        """How messages call it, such as `model "iris"`."""

    async def ask(self, columns: Columns, headers: HeaderPairs, timeout: float) -> Columns:
        """The answer to one request, which has as many rows in its first dimension as the explainer has stacked.

        `headers` are the travelling ones of the request that is explained. Raises RequestError.
        """

    def native(self) -> Any:
        """The model as its library's own object, where this process has it and may read it; None otherwise."""
