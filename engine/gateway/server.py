"""The gateway: both doors behind one port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.gateway.grpc import Grpc
from engine.gateway.port import Port
from engine.gateway.rest import Rest
from engine.telemetry.figures import Figures

if TYPE_CHECKING:
    from engine.gateway.inference import Inference


class Gateway:
    """Answers V2 calls by REST and gRPC on one port.

    max_message_bytes   the largest request, through either door and after unpacking, and the largest answer
    request_timeout     seconds that a call may take when its caller asks for no less
    figures             where calls are counted, and what `/metrics` shows
    """

    def __init__(
        self,
        inference: Inference,
        *,
        max_message_bytes: int,
        request_timeout: float,
        figures: Figures | None = None,
    ) -> None:
        counts = Figures() if figures is None else figures
        self._port = Port(
            Rest(inference, counts, max_message_bytes=max_message_bytes, request_timeout=request_timeout),
            Grpc(inference, counts, max_message_bytes=max_message_bytes, request_timeout=request_timeout),
        )

    async def start(self, host: str, port: int) -> None:
        """Listen; calls are answered when this returns. InvalidSettings when the address cannot be had."""
        await self._port.start(host, port)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on; the real port when 0 was asked for."""
        return self._port.address

    async def stop(self, grace: float) -> None:
        """Take no more calls, let those in flight end within `grace` seconds, and cut off the rest."""
        await self._port.stop(grace)
