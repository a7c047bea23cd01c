"""Spans of the calls that a gateway answers, around what answers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.gateway.inference import Answer, Desk, Inference, Target
    from engine.protocol.record import Headers
    from engine.telemetry.spans import Spans


class TracedInference:
    """Has a span for each call, under the caller's own if it names one."""

    def __init__(self, inference: Inference, made: Spans) -> None:
        self._inference, self._spans = inference, made
        self.new_request_id = inference.new_request_id
        self.check_room, self.server_ready = inference.check_room, inference.server_ready
        self.ready, self.unready, self.metadata = inference.ready, inference.unready, inference.metadata

    async def infer(self, target: Target, request: Any, headers: Headers, *, request_id: str, timeout: float) -> Answer:
        """As `Inference` has it."""
        span, its = self._spans.serve(f"infer {target.name}", headers, request_id, {str(target.owner): target.name})
        try:
            answer = await self._inference.infer(target, request, tuple(its), request_id=request_id, timeout=timeout)
        except BaseException as error:
            self._spans.end(span, error)
            raise
        self._spans.end(span)
        return answer


class TracedDesk:
    """Has a span for each call that goes through Kafka, from when it is published until its reply is there."""

    def __init__(self, desk: Desk, made: Spans) -> None:
        self._desk, self._spans = desk, made

    @property
    def waiting(self) -> int:
        """As `Desk` has it."""
        return self._desk.waiting

    async def call(self, topic: str, key: bytes, value: bytes, headers: Headers, timeout: float) -> Any:
        """As `Desk` has it."""
        span, its = self._spans.publish("publish and wait", headers, {"topic": topic})
        try:
            reply = await self._desk.call(topic, key, value, tuple(its), timeout)
        except BaseException as error:
            self._spans.end(span, error)
            raise
        self._spans.end(span)
        return reply
