"""The pipelines that run here: one worker for each, started, given the next version, and left to others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.dataflow.compiler import compile_pipeline
from engine.dataflow.external import compile_input
from engine.kafka import needs, standing, states
from engine.kafka.view import CREATING, FAILED
from engine.protocol.record import Owner, Side
from engine.resources import Pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.dataflow.external import Upstream
    from engine.dataflow.plan import Plan
    from engine.kafka.agents import Worker
    from engine.kafka.standing import Standing
    from engine.kafka.states import Told
    from engine.kafka.telling import Telling
    from engine.kafka.upkeep import Upkeep
    from engine.kafka.view import Loaded, View
    from engine.kafka.workers import Workers
    from engine.protocol.record import Topics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A pipeline that runs.

    depth   how many pipelines its requests may wait for, one behind the other, as it was at its start
    """

    loaded: Loaded
    worker: Worker
    depth: int

    @property
    def is_amiss(self) -> bool:
        """Whether its worker is to be replaced, or to be stopped for good."""
        return self.worker.crashed or bool(self.worker.refusal)


class Pipelines:
    """Runs pipelines.

    running   those that run, by their names
    """

    def __init__(self, topics: Topics, view: View, upkeep: Upkeep, telling: Telling, workers: Workers) -> None:
        self._topics, self._view = topics, view
        self._upkeep, self._telling, self._workers = upkeep, telling, workers
        self.running: dict[str, Running] = {}
        # Those that cannot be run here, as they came: nothing is to be done about them until they change.
        self._refused: dict[str, Loaded] = {}

    def is_stale(self, loaded: Loaded, now: Standing) -> bool:
        """Whether a pipeline is to be started as it is loaded."""
        name = loaded.key[1]
        if self._refused.get(name) is loaded:
            return False
        running = self.running.get(name)
        if running is None or running.worker.crashed:
            return True
        return now.calls_for_pipeline(loaded, running.loaded, running.depth)

    def open(self, now: Standing) -> None:
        """Let requests in where the models that they need have been loaded: before that they would fail in vain."""
        for each in self.running.values():
            if now.settled(needs.steps(each.loaded.resource)):
                each.worker.opened.set()

    def retry(self, name: str) -> None:
        """Forget that a pipeline could not be run as it came."""
        self._refused.pop(name, None)

    async def start(self, loaded: Loaded) -> None:
        """Start a pipeline's worker, or give the running one the new version between two polls."""
        pipeline = loaded.resource
        assert isinstance(pipeline, Pipeline)
        compiled, problems = compile_pipeline(pipeline)
        upstream, faults = compile_input(pipeline)
        reasons = [self._upkeep.unfit.get(loaded.key, ""), *(problem.message for problem in (*problems, *faults))]
        if compiled is None or any(reasons):
            self._refused[pipeline.name] = loaded
            await self._telling.tell(loaded, FAILED, next(filter(None, reasons)))
        else:
            await self._run(loaded, compiled, upstream)

    async def _run(self, loaded: Loaded, compiled: Plan, upstream: Upstream | None) -> None:
        name = loaded.key[1]
        depth = standing.depth_of(name, self._view.resources)
        running = self.running.get(name)
        if running is not None and not (running.worker.takes(upstream) and running.depth == depth):
            await self.stop(name)
            running = None
        topic = self._topics.of(Owner.PIPELINE, name, Side.INPUTS)
        if running is not None:
            worker = running.worker
            worker.reroute({topic: self._workers.execution(compiled, loaded.version, Owner.PIPELINE, worker)})
        else:
            await self._telling.tell(loaded, CREATING, "joining its consumer group")
            worker = self._workers.of_pipeline(name, upstream, depth)
            await worker.start({topic: self._workers.execution(compiled, loaded.version, Owner.PIPELINE, worker)})
        self.running[name] = Running(loaded, worker, depth)

    async def stop(self, name: str) -> None:
        """End a pipeline's worker."""
        await self._workers.end(self.running.pop(name).worker)

    async def leave(self, name: str) -> None:
        """Leave a pipeline to those who know how its state is written, until it is loaded anew."""
        running = self.running[name]
        await self.stop(name)
        loaded, refusal = self._view.resources.get(running.loaded.key, running.loaded), running.worker.refusal
        self._refused[name] = loaded
        log.error("%s %s: %s", *loaded.key, refusal)
        await self._telling.tell(loaded, FAILED, refusal)

    async def tell(self, models: Mapping[str, Told]) -> None:
        """Tell the state of every pipeline that runs, where it has changed, by the states of the models here."""
        for name, running in list(self.running.items()):
            # While others are told, one may be left: that was the last word on it.
            if self._refused.get(name) is not self._view.resources.get(running.loaded.key):
                await self._telling.tell(running.loaded, *self._state(running, models))

    def _state(self, running: Running, models: Mapping[str, Told]) -> Told:
        pipeline, worker = running.loaded.resource, running.worker
        assert isinstance(pipeline, Pipeline)
        assigned = worker.intake.assigned.is_set()
        found = states.of_worker(worker.refusal, crashed=worker.crashed, assigned=assigned)
        return found or states.of_pipeline(pipeline, models, self._view)
