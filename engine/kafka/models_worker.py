"""The one worker that reads the calls of all models here, which come without a pipeline."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine.dataflow import plan
from engine.kafka import needs
from engine.resources import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.kafka.agents import Worker
    from engine.kafka.standing import Standing
    from engine.kafka.upkeep import Upkeep
    from engine.kafka.view import Loaded
    from engine.kafka.workers import Workers
    from engine.protocol.record import Owner, Topics

log = logging.getLogger(__name__)


class ModelsWorker:
    """One group reads all models' inputs; its topics are fixed at its start, so other topics mean a new member."""

    def __init__(self, topics: Topics, upkeep: Upkeep, workers: Workers) -> None:
        self._topics, self._upkeep, self._workers = topics, upkeep, workers
        self._worker: Worker | None = None
        self._is_left = False  # whether only a newer release can go on with what is on their topics

    @property
    def is_amiss(self) -> bool:
        """Whether it is to be replaced, or to be stopped for good."""
        return self._worker is not None and (self._worker.crashed or bool(self._worker.refusal))

    def is_stale(self, models: Mapping[str, Loaded]) -> bool:
        """Whether it is to be started for these models."""
        wanted = self._calls(models)
        if self._worker is None:
            return bool(wanted) and not self._is_left
        return self.is_amiss or set(self._worker.routes) != set(wanted)

    def reads(self, topic: str) -> bool:
        """Whether a topic is one of those that it reads."""
        return self._worker is not None and topic in self._worker.routes

    def open(self, models: Mapping[str, Loaded], now: Standing) -> None:
        """Let requests in once all models have been loaded: before that they would fail in vain."""
        if self._worker is not None and now.settled(models):
            self._worker.opened.set()

    async def start(self, models: Mapping[str, Loaded]) -> None:
        """Start it for these models, in the place of the one that runs; none where they have no topics to read."""
        old, self._worker = self._worker, None
        if old is not None:
            await self._workers.end(old)
            if old.refusal:
                log.error("what is on the topics of models is left to others: %s", old.refusal)
                self._is_left = True
                return
        calls = self._calls(models)
        if calls:
            worker = self._workers.of_models()
            await worker.start(
                {
                    topic: self._workers.execution(plan.single_model(name), 1, owner, worker)
                    for topic, (owner, name) in calls.items()
                }
            )
            self._worker = worker

    def _calls(self, models: Mapping[str, Loaded]) -> dict[str, tuple[Owner, str]]:
        usable = (each.resource for each in models.values() if each.key not in self._upkeep.unfit)
        return needs.calls(self._topics, (each for each in usable if isinstance(each, Model)))
