"""What stands behind both doors: find the target, give it the request, wait for its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from engine.protocol.record import Headers, Owner


@dataclass(frozen=True, slots=True)
class Target:
    """The model, pipeline or explainer that a call is for."""

    owner: Owner
    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A `ModelInferResponse` message and the X- headers that go back to the caller."""

    message: Any
    headers: Headers


class Inference(Protocol):
    """The data plane as the doors see it. Every failure is a RequestError."""

    def new_request_id(self) -> str: ...
    async def infer(self, target: Target, request: Any, headers: Headers, *, request_id: str, timeout: float) -> Answer: ...
    async def ready(self, target: Target) -> bool: ...
    async def metadata(self, target: Target) -> Any: ...
    async def server_ready(self) -> bool: ...
