"""What explainers ask: a model of this process directly, a pipeline through Kafka as any caller who waits does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import ModelFailed, TooLarge, Unreachable
from engine.kafka.replies import ReplyDesk
from engine.protocol import columns as col
from engine.protocol.record import PIPELINE, REQUEST_ID, Owner, Side, header
from engine.runtimes.explainers import Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.kafka.client import Topology
    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs, Topics
    from engine.resources import Explainer
    from engine.runtimes.contract import Explained, Runtime
    from engine.settings import Settings


class Asking:
    """Makes what explainers of this process ask.

    desk        the process's own, when it has a gateway; otherwise one is started when it is first needed
    is_loaded   whether there is a pipeline of that name
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        topology: Topology,
        instance: str,
        desk: ReplyDesk | None,
        is_loaded: Callable[[str], bool],
    ) -> None:
        self._settings, self._topics, self._topology, self._instance = settings, topics, topology, instance
        self._desk, self._own_desk = desk, False
        self._is_loaded = is_loaded
        self._starting = asyncio.Lock()

    async def of(self, explainer: Explainer, runtime_of: Callable[[str], Runtime | None]) -> Explained:
        """What this explainer asks. Raises BrokerUnavailable when a desk is needed and cannot be started.

        runtime_of   the runtime of a model that this process has
        """
        if explainer.model_ref:
            return Asked(explainer.model_ref, runtime_of)
        async with self._starting:
            if self._desk is None:
                desk = ReplyDesk(self._settings, self._topics, self._topology, self._instance)
                try:
                    await desk.start()
                except BaseException:
                    await desk.stop()
                    raise
                self._desk, self._own_desk = desk, True
        return _Pipeline(explainer.pipeline_ref, self._settings, self._topics, self._desk, self._is_loaded)

    async def stop(self) -> None:
        """End the desk, if it is of our own; who waits at it gets an error."""
        if self._desk is not None and self._own_desk:
            await self._desk.stop()


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """A pipeline, as explainers ask it."""

    name: str
    settings: Settings
    topics: Topics
    desk: ReplyDesk
    is_loaded: Callable[[str], bool]

    @property
    def title(self) -> str:
        """As `Explained` has it."""
        return f'pipeline "{self.name}"'

    async def ask(self, columns: Columns, headers: HeaderPairs, timeout: float) -> Columns:
        """As `Explained` has it."""
        if not self.is_loaded(self.name):
            raise Unreachable("it is not loaded")
        [value] = col.encode(columns, col.REQUEST, self.name)
        limit = self.settings.max_message_bytes
        if len(value) > limit:
            raise TooLarge(
                f"the perturbed rows take {len(value)} bytes and the limit is {limit}; give the explainer a smaller "
                '"max_batch_size"'
            )
        key = f"{self.name}.{header(headers, REQUEST_ID) or ''}".encode()
        sent = (*headers, (PIPELINE, self.name.encode()))
        reply = await self.desk.call(self.topics.of(Owner.PIPELINE, self.name, Side.INPUTS), key, value, sent, timeout)
        return _answer(reply.value)

    def native(self) -> Any:
        """As `Explained` has it: a pipeline is no library's object."""


def _answer(value: bytes) -> Columns:
    groups, refused = col.decode([value], col.RESPONSE)
    if refused:
        raise ModelFailed(f"its answer cannot be read: {refused[0].error}")
    return groups[0][1]
