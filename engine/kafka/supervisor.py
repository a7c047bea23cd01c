"""Runs here what the registry holds: a runtime for each model, a worker for each pipeline, one for all models.

What is stale is decided here, and a job is begun for it; how each kind of thing is run is `models`', `pipelines`' and
`models_worker`'s part.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from engine.kafka.asking import Asking
from engine.kafka.cleaning import Cleaner
from engine.kafka.models import Models
from engine.kafka.models_worker import ModelsWorker
from engine.kafka.pipelines import Pipelines
from engine.kafka.splits import Splits
from engine.kafka.standing import Standing
from engine.kafka.telling import Telling
from engine.kafka.upkeep import Upkeep
from engine.kafka.workers import Workers
from engine.protocol.record import Owner, Side
from engine.resources import Model, Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from engine.kafka.client import Topology
    from engine.kafka.registry import Registry
    from engine.kafka.replies import ReplyDesk
    from engine.kafka.view import Key, Loaded
    from engine.protocol.record import RequestIds, Topics
    from engine.settings import Settings
    from engine.telemetry.figures import Figures

log = logging.getLogger(__name__)

# Loads come in bursts (a file with many documents); what changes within this time is taken up at once.
SETTLE_SECONDS = 0.05

# How often models are asked whether they would answer, and workers whether they live.
CHECK_SECONDS = 2.0

# How often it is looked whether all topics are still as they were, and whether records wait that nobody reads.
TOPICS_SECONDS = 5.0
WATCH_SECONDS = 15.0

# The job of the worker of all models.
CALLS: Key = ("models", "")


class Supervisor:
    """Follows the registry's view.

    trusted   folders that were named on the command line: artefacts there may unpickle
    desk      where callers of this process wait for answers, if it has a gateway
    models    the models that run here
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        topology: Topology,
        registry: Registry,
        request_ids: RequestIds,
        *,
        instance: str,
        trusted: Iterable[str],
        clock: Callable[[], float],
        figures: Figures,
        desk: ReplyDesk | None = None,
    ) -> None:
        self._topics, self._topology, self._registry = topics, topology, registry
        view = registry.view
        self._telling = Telling(instance, registry.tell, registry.forget, clock)
        self._upkeep = Upkeep(topics, topology)
        self._cleaner = Cleaner(topics, topology, registry, self._holds, clock)
        asking = Asking(settings, topics, topology, instance, desk, lambda name: ("pipeline", name) in view.resources)
        self.models = Models(settings, view, asking, self._upkeep, self._telling, trusted=trusted, clock=clock)
        self._workers = Workers(
            settings,
            topics,
            topology,
            request_ids,
            instance=instance,
            runtime_of=self.models.called,
            splits=Splits(view, self.models.usable, random.random, figures.draw),
            figures=figures,
            callers=desk,
        )
        self._pipelines = Pipelines(topics, view, self._upkeep, self._telling, self._workers)
        self._models_worker = ModelsWorker(topics, self._upkeep, self._workers)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: dict[Key, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Connect, and begin to follow the registry."""
        await self._workers.start()
        await self._topology.ensure([self._topics.errors])
        await self._topology.ensure_replies(self._topics.replies)
        self._changed.set()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._beat())]

    async def stop(self, *, drain: bool = True) -> None:
        """Drain and stop every worker, free the models; a broker that is gone is not waited for."""
        tasks = [*self._tasks, *self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._workers.end_all(drain=drain)
        await self.models.stop()
        await self._workers.stop()

    async def ended(self) -> None:
        """Raise when what follows the registry has failed: the process could not go on as it says it does."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task

    def changed(self) -> None:
        """The registry's view has changed."""
        self._changed.set()

    async def reload(self, name: str) -> None:
        """Load a model anew from its files. Raises RuntimeUnavailable when it cannot be, and the old one goes on."""
        key = ("model", name)
        while (job := self._jobs.get(key)) is not None:
            await asyncio.wait({job})
        loaded = self._registry.view.resources.get(key)
        if loaded is None or not self.models.runs(loaded):
            # It is stale anyway, or could not be loaded as it was.
            self.models.retry(name)
            self._changed.set()
            return
        # Equal and another one: explainers see by it that what they explain is new.
        task = self._jobs[key] = asyncio.create_task(self.models.renew(replace(loaded)))
        try:
            await task
        finally:
            del self._jobs[key]
            self._changed.set()

    def retell(self) -> None:
        """What was said of the states here is gone from the topic; it is said again."""
        self._telling.said.clear()
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._changed.clear()
            try:
                await self._apply()
            except EngineError as error:
                # The broker is away: what could not be done is tried again, and all that runs goes on.
                log.warning("could not take up a change, trying again: %s", error)
                await asyncio.sleep(CHECK_SECONDS)
                self._changed.set()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        looked = watched = -WATCH_SECONDS
        while True:
            try:
                if loop.time() - looked >= TOPICS_SECONDS:
                    looked = loop.time()
                    await self._check_topics()
                if loop.time() - watched >= WATCH_SECONDS:
                    watched = loop.time()
                    await self._workers.watch()
                await self._tell()
                await self._cleaner.clean()
            except EngineError as error:
                log.warning("could not tell the states of what runs here: %s", error)
            await asyncio.sleep(CHECK_SECONDS)

    async def _apply(self) -> None:
        """Begin whatever makes what runs here equal to what the registry holds."""
        resources = dict(self._registry.view.resources)
        models = {key[1]: loaded for key, loaded in resources.items() if isinstance(loaded.resource, Model)}
        pipelines = {key[1]: loaded for key, loaded in resources.items() if isinstance(loaded.resource, Pipeline)}
        self._cleaner.follow(self._upkeep.made, resources)
        await self._upkeep.ensure(resources)
        now = Standing(self._registry.view.resources, self.models.taken_up)
        self._apply_models(models, now)
        self._apply_pipelines(pipelines, now)
        for key in {key for key in self._telling.said if key not in resources and not self._holds(key)}:
            await self._telling.forget(key)
        await self._tell()

    def _apply_models(self, models: Mapping[str, Loaded], now: Standing) -> None:
        for name, loaded in models.items():
            if now.calls_for_model(loaded, self.models.explained.get(name)):
                self._begin(loaded.key, self.models.load(loaded))
        for name in now.models.keys() - models.keys():
            self._begin(("model", name), self.models.unload(name))
        if self._models_worker.is_stale(models):
            self._begin(CALLS, self._models_worker.start(models))
        self._models_worker.open(models, now)

    def _apply_pipelines(self, pipelines: Mapping[str, Loaded], now: Standing) -> None:
        for name, loaded in pipelines.items():
            running = self._pipelines.running.get(name)
            if running is not None and running.worker.refusal:
                self._begin(loaded.key, self._pipelines.leave(name))
            elif self._pipelines.is_stale(loaded, now):
                self._begin(loaded.key, self._pipelines.start(loaded))
        for name in self._pipelines.running.keys() - pipelines.keys():
            self._begin(("pipeline", name), self._pipelines.stop(name))
        self._pipelines.open(now)

    def _begin(self, key: Key, job: Coroutine[Any, Any, None]) -> None:
        """Do one thing at a time for each resource, and never wait for one with another."""
        if key in self._jobs:
            job.close()  # when the running one ends, what is still to do is looked at again
            return
        self._jobs[key] = asyncio.create_task(self._do(key, job))

    async def _do(self, key: Key, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except EngineError as error:
            log.warning("%s %s: trying again: %s", *key, error)
            await asyncio.sleep(CHECK_SECONDS)
        finally:
            del self._jobs[key]
        if not {"pipeline", "models"} & {kind for kind, _ in self._jobs}:  # what was read before has ended
            self.models.leaving.free()
        self._changed.set()

    async def _check_topics(self) -> None:
        """Stop what runs on topics that somebody has deleted or grown, and start it where they are back."""
        lost = await self._upkeep.look(self._registry.view.resources)
        if lost == self._upkeep.lost:
            return
        for kind, name in self._upkeep.lose(lost):
            self._pipelines.retry(name)
            if kind == "pipeline" and name in self._pipelines.running:
                self._begin((kind, name), self._pipelines.stop(name))
        self._changed.set()

    def _holds(self, key: Key) -> bool:
        """Whether something of a resource still runs here, or is about to be started or ended."""
        kind, name = key
        if key in self._jobs or name in (self._pipelines.running if kind == "pipeline" else self.models.taken_up):
            return True
        if kind == "pipeline":
            return False
        return CALLS in self._jobs or self._models_worker.reads(self._topics.of(Owner.MODEL, name, Side.INPUTS))

    async def _tell(self) -> None:
        """Tell the state of everything that runs here, where it has changed."""
        await self._pipelines.tell(await self.models.tell())
        if self._models_worker.is_amiss or any(each.is_amiss for each in self._pipelines.running.values()):
            self._changed.set()
