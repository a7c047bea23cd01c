"""Runs here what the registry holds: a runtime for each model, a worker for each pipeline, one for all models."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.dataflow import explaining, plan
from engine.dataflow.compiler import compile_pipeline
from engine.dataflow.external import compile_input
from engine.errors import EngineError, ModelFailed, RuntimeUnavailable, TopicRefused, UnequalPartitions
from engine.execution import Execution
from engine.kafka import needs, states
from engine.kafka.agents import Worker, Writers
from engine.kafka.asking import Asking
from engine.kafka.budget import Budget
from engine.kafka.cleaning import Cleaner
from engine.kafka.describing import metadata_of
from engine.kafka.joins import Joiner
from engine.kafka.outlet import Outlet
from engine.kafka.retiring import Leaving, Retirable
from engine.kafka.splits import Splits
from engine.kafka.transactions import GroupOffsets, Transactions
from engine.kafka.transport import ConsumerLoop
from engine.kafka.view import CREATING, FAILED, READY, Loaded, State
from engine.protocol.record import Owner, Side
from engine.resources import Model, Pipeline
from engine.runtimes import choice
from engine.settings import EXACTLY_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from engine.dataflow.external import Upstream
    from engine.kafka.client import Topology
    from engine.kafka.registry import Registry
    from engine.kafka.replies import ReplyDesk
    from engine.kafka.states import Told
    from engine.kafka.view import Key
    from engine.protocol.record import RequestIds, Topics
    from engine.resources import TopicOptions
    from engine.runtimes.contract import Runtime
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


class Supervisor:
    """Follows the registry's view.

    trusted   folders that were named on the command line: artefacts there may unpickle
    desk      where callers of this process wait for answers, if it has a gateway
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
        trusted: Sequence[str],
        clock: Callable[[], float],
        figures: Figures,
        desk: ReplyDesk | None = None,
    ) -> None:
        self._callers, self._figures = desk, figures
        self._settings, self._topics, self._topology = settings, topics, topology
        self._registry, self._request_ids = registry, request_ids
        self._asking = Asking(
            settings,
            topics,
            topology,
            instance,
            desk,
            self.runtime,
            lambda name: ("pipeline", name) in registry.view.resources,
        )
        self._instance, self._trusted, self._clock = instance, set(trusted), clock
        self._cleaner = Cleaner(topics, topology, registry, self._holds, clock)
        self._splits = Splits(registry.view, self._usable, random.random)
        self._outlet, self._consumer_loop = Outlet(settings), ConsumerLoop()
        # What waits for a pipeline must not take the room that this pipeline's own requests need: one budget for each
        # depth of pipelines that wait for others, and one for the models' worker, whose explainers ask all of them.
        self._budgets: dict[int | None, Budget] = {}
        self._offsets = GroupOffsets(settings, stable_reads=not topology.holds_fetches)
        exactly = settings.processing_guarantee == EXACTLY_ONCE
        self._transactions = Transactions(settings, instance) if exactly else None
        self._runtimes: dict[str, tuple[Loaded, Retirable]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._leaving = Leaving(self._retire)
        self._failed: dict[str, tuple[Loaded, str]] = {}
        # The models that explainers were loaded for; they are loaded anew when these are.
        self._explained: dict[str, Loaded | None] = {}
        self._workers: dict[str, tuple[Loaded, Worker]] = {}
        # How many pipelines the requests of each worker may wait for, one behind the other, as it was at its start.
        self._depths: dict[str, int] = {}
        self._models_worker: Worker | None = None
        self._models_left = False  # whether only a newer release can go on with what is on their topics
        # Pipelines that cannot be compiled here, as they came: nothing is to be done about them until they change.
        self._refused: dict[str, Loaded] = {}
        # Resources whose topics cannot be had, or have another number of partitions than the namespace, and why.
        self._unequal: dict[Key, str] = {}
        # Resources as they were when their topics were made, and those whose topics somebody has changed since.
        self._made: dict[Key, Loaded] = {}
        self._lost: dict[Key, str] = {}
        # Every worker that was made and not stopped: one whose job is cancelled while it starts must be stopped too.
        self._living: set[Worker] = set()
        self._told: dict[Key, State] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: dict[Key, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Connect, and begin to follow the registry."""
        await self._outlet.start()
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
        await asyncio.gather(*(worker.stop(drain=drain) for worker in self._living))
        self._leaving.free()
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._asking.stop()
        await asyncio.gather(*(runtime.unload() for _, runtime in self._runtimes.values()))
        if self._transactions is not None:
            await self._transactions.stop()
        await self._offsets.stop()
        await self._outlet.stop()
        self._consumer_loop.stop()

    async def ended(self) -> None:
        """Raise when what follows the registry has failed: the process could not go on as it says it does."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task

    def changed(self) -> None:
        """The registry's view has changed."""
        self._changed.set()

    def trust(self, folders: Iterable[str]) -> None:
        """These folders are below what was named on the command line, too."""
        self._trusted |= set(folders)

    async def reload(self, name: str) -> None:
        """Load a model anew from its files. Raises RuntimeUnavailable when it cannot be, and the old one goes on."""
        key = ("model", name)
        while (job := self._jobs.get(key)) is not None:
            await asyncio.wait({job})
        loaded = self._registry.view.resources.get(key)
        if name in self._failed or name not in self._runtimes or self._runtimes[name][0] != loaded:
            # It is stale anyway, or could not be loaded as it was.
            self._failed.pop(name, None)
            self._changed.set()
            return
        # Equal and another one: explainers see by it that what they explain is new.
        task = self._jobs[key] = asyncio.create_task(self._renew(replace(self._runtimes[name][0])))
        try:
            await task
        finally:
            del self._jobs[key]
            self._changed.set()

    def retell(self) -> None:
        """What was said of the states here is gone from the topic; it is said again."""
        self._told.clear()
        self._changed.set()

    def runtime(self, name: str) -> Runtime | None:
        """The runtime of a model that this process has; None when it has none."""
        found = self._runtimes.get(name)
        return found[1] if found else None

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
                    await asyncio.gather(*(worker.watch() for worker in self._living))
                await self._check()
                await self._cleaner.clean()
            except EngineError as error:
                log.warning("could not tell the states of what runs here: %s", error)
            await asyncio.sleep(CHECK_SECONDS)

    async def _apply(self) -> None:
        """Begin whatever makes what runs here equal to what the registry holds."""
        resources = dict(self._registry.view.resources)
        models = {key[1]: loaded for key, loaded in resources.items() if isinstance(loaded.resource, Model)}
        pipelines = {key[1]: loaded for key, loaded in resources.items() if isinstance(loaded.resource, Pipeline)}
        await self._ensure_topics(resources)
        for name, loaded in models.items():
            if self._model_stale(name, loaded):
                self._begin(("model", name), self._load_model(loaded))
        for name in {*self._runtimes, *self._failed} - set(models):
            self._begin(("model", name), self._unload_model(name))
        if self._models_worker_stale(models):
            self._begin(("models", ""), self._start_models_worker(models))
        for name, loaded in pipelines.items():
            if name in self._workers and self._workers[name][1].refusal:
                self._begin(("pipeline", name), self._leave(name))
            elif self._pipeline_stale(name, loaded):
                self._begin(("pipeline", name), self._start_pipeline(loaded))
        for name in set(self._workers) - set(pipelines):
            self._begin(("pipeline", name), self._stop_pipeline(name))
        self._open_workers(models)
        for key in {key for key in self._told if key not in resources and not self._holds(key)}:
            del self._told[key]
            await self._registry.forget(key, self._instance)
        await self._check()

    def _model_stale(self, name: str, loaded: Loaded) -> bool:
        model = loaded.resource
        explained = model.explainer.model_ref if isinstance(model, Model) and model.explainer is not None else ""
        if not explained:
            return self._loaded_model(name) != loaded
        is_new = self._loaded_model(name) != loaded or self._explained.get(name) is not self._loaded_model(explained)
        return is_new and self._settled([explained])

    def _pipeline_stale(self, name: str, loaded: Loaded) -> bool:
        if self._refused.get(name) is loaded:
            return False
        running = self._workers.get(name)
        if running is None or running[1].crashed:
            return True
        # The old version goes on until the new one's models are there.
        is_new = running[0] != loaded or self._depths[name] != self._depth(name)
        return is_new and self._settled(needs.steps(loaded.resource))

    def _depth(self, pipeline: str) -> int:
        found = [loaded.resource for loaded in self._registry.view.resources.values()]
        models = {each.name: each for each in found if isinstance(each, Model)}
        return explaining.depth(pipeline, models, {each.name: each for each in found if isinstance(each, Pipeline)})

    def _settled(self, models: Iterable[str]) -> bool:
        """Whether each of these models that is known has been loaded, or could not be."""
        known = self._registry.view.resources
        return all(self._loaded_model(name) == known.get(("model", name), self._loaded_model(name)) for name in models)

    def _open_workers(self, models: Iterable[str]) -> None:
        """Let requests in where the models that they need have been loaded: before that they would fail in vain."""
        for loaded, worker in self._workers.values():
            if self._settled(needs.steps(loaded.resource)):
                worker.opened.set()
        if self._models_worker is not None and self._settled(models):
            self._models_worker.opened.set()

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
            self._leaving.free()
        self._changed.set()

    async def _ensure_topics(self, resources: Mapping[Key, Loaded]) -> None:
        """Create every topic that the resources need, and find out which of them cannot work with what is there."""
        self._cleaner.follow(self._made, resources)
        # What was lost is made again when its resource is loaded anew, and not behind an administrator's back.
        self._lost = {key: words for key, words in self._lost.items() if self._made.get(key) is resources.get(key)}
        wanted = {key: self._needs(loaded) for key, loaded in resources.items() if key not in self._lost}
        options = needs.options(self._topics, (loaded.resource for loaded in resources.values()))
        self._unequal = dict(self._lost)
        try:
            await self._ensure(resources, wanted, options)
        except (UnequalPartitions, TopicRefused):
            for key, names in wanted.items():
                try:
                    await self._ensure(resources, {key: names}, options)
                except (UnequalPartitions, TopicRefused) as error:
                    self._unequal[key] = str(error)
        usable = {name for key, names in wanted.items() if key not in self._unequal for name in names}
        await self._topology.compare(usable, options)
        self._made = {key: resources[key] for key in {*wanted, *self._lost}}

    async def _ensure(
        self, resources: Mapping[Key, Loaded], wanted: Mapping[Key, Sequence[str]], options: Mapping[str, TopicOptions]
    ) -> None:
        await self._topology.ensure({name for names in wanted.values() for name in names}, options)
        joins = (needs.joins(self._topics, resources[key].resource) for key in wanted)
        await self._topology.ensure_changelogs({name for names in joins for name in names})

    async def _check_topics(self) -> None:
        """Stop what runs on topics that somebody has deleted or grown, and start it where they are back."""
        resources = self._registry.view.resources
        wanted = {key: self._needs(loaded) for key, loaded in self._made.items() if resources.get(key) is loaded}
        faults = await self._topology.faults({name for names in wanted.values() for name in names})
        lost = {
            key: words
            for key, names in wanted.items()
            if (words := next((faults[n] for n in names if n in faults), ""))
        }
        if lost == self._lost:
            return
        for key in lost.keys() ^ self._lost.keys():
            self._refused.pop(key[1], None)
            if key in lost:
                log.error("%s %s: %s", *key, lost[key])
            if key[0] == "pipeline" and key[1] in self._workers:
                self._begin(key, self._stop_pipeline(key[1]))
        self._lost = lost
        self._changed.set()

    def _needs(self, loaded: Loaded) -> list[str]:
        return needs.needed(self._topics, loaded.resource)

    def _holds(self, key: Key) -> bool:
        """Whether something of a resource still runs here, or is about to be started or ended."""
        kind, name = key
        if key in self._jobs or name in (self._workers if kind == "pipeline" else {*self._runtimes, *self._failed}):
            return True
        if kind == "pipeline":
            return False
        inputs, worker = self._topics.of(Owner.MODEL, name, Side.INPUTS), self._models_worker
        return ("models", "") in self._jobs or (worker is not None and inputs in worker.routes)

    def _usable(self, model: str) -> bool:
        told = self._told.get(("model", model))
        return model in self._runtimes and (told is None or told.state != FAILED)

    def _loaded_model(self, name: str) -> Loaded | None:
        # What could not be loaded anew is newer than what runs.
        found = self._failed.get(name) or self._runtimes.get(name)
        return found[0] if found else None

    async def _unload_model(self, name: str) -> None:
        self._failed.pop(name, None)
        if (found := self._runtimes.pop(name, None)) is not None:
            self._leaving.add(name, found[1])

    def _retire(self, runtime: Retirable) -> None:
        task = asyncio.create_task(runtime.retire(self._settings.request_timeout))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _load_model(self, loaded: Loaded) -> None:
        """Load a model; the old one answers until the new one does, and goes on if the new one cannot."""
        model = loaded.resource
        assert isinstance(model, Model)
        if model.explainer is not None:
            self._explained[model.name] = self._loaded_model(model.explainer.model_ref)
        if loaded.key in self._unequal:
            self._failed[model.name] = (loaded, self._unequal[loaded.key])
            return
        await self._tell(loaded, CREATING, "loading")
        try:
            await self._renew(loaded)
        except RuntimeUnavailable as error:
            log.warning("%s", error)
            self._failed[model.name] = (loaded, error.reason)

    async def _renew(self, loaded: Loaded) -> None:
        """Load a model in the place of the one that runs, which finishes what it has begun."""
        model = loaded.resource
        assert isinstance(model, Model)
        folder, trusted = Path(loaded.folder), loaded.folder in self._trusted
        explained = await self._asking.of(model.explainer) if model.explainer is not None else None
        runtime = choice.make(model, folder, self._settings, trusted=trusted, explained=explained)
        await runtime.load()
        self._failed.pop(model.name, None)
        old = self._runtimes.get(model.name)
        self._runtimes[model.name] = (loaded, Retirable(runtime))
        if old is not None:
            self._retire(old[1])
            self._told.pop(loaded.key, None)  # what it says of its tensors may be new

    def _models_topics(self, models: Mapping[str, Loaded]) -> dict[str, tuple[Owner, str]]:
        usable = {name: loaded for name, loaded in models.items() if loaded.key not in self._unequal}
        return {
            self._topics.of(owner, name, Side.INPUTS): (owner, name)
            for name, loaded in usable.items()
            if isinstance(loaded.resource, Model)
            for owner in needs.owners(loaded.resource)
        }

    def _models_worker_stale(self, models: Mapping[str, Loaded]) -> bool:
        worker, wanted = self._models_worker, self._models_topics(models)
        if worker is None:
            return bool(wanted) and not self._models_left
        return worker.crashed or bool(worker.refusal) or set(worker.routes) != set(wanted)

    async def _start_models_worker(self, models: Mapping[str, Loaded]) -> None:
        """One group reads all models' inputs; its topics are fixed at its start, so other topics mean a new member."""
        old, self._models_worker = self._models_worker, None
        if old is not None:
            await self._end(old)
            if old.refusal:
                log.error("what is on the topics of models is left to others: %s", old.refusal)
                self._models_left = True
                return
        wanted = self._models_topics(models)
        if wanted:
            worker = self._new_worker(self._topics.group(Owner.MODEL, ""), None)
            await worker.start(
                {
                    topic: self._execution(plan.single_model(name), 1, owner, worker)
                    for topic, (owner, name) in wanted.items()
                }
            )
            self._models_worker = worker

    async def _start_pipeline(self, loaded: Loaded) -> None:
        """Start a pipeline's worker, or give the running one the new version between two polls."""
        pipeline = loaded.resource
        assert isinstance(pipeline, Pipeline)
        name = pipeline.name
        compiled, problems = compile_pipeline(pipeline)
        upstream, faults = compile_input(pipeline)
        reasons = [self._unequal.get(loaded.key, ""), *(problem.message for problem in (*problems, *faults))]
        if compiled is None or any(reasons):
            self._refused[name] = loaded
            await self._tell(loaded, FAILED, next(filter(None, reasons)))
            return
        depth = self._depth(name)
        goes_on = name in self._workers and self._workers[name][1].takes(upstream) and self._depths[name] == depth
        if name in self._workers and not goes_on:
            await self._stop_pipeline(name)
        topic = self._topics.of(Owner.PIPELINE, name, Side.INPUTS)
        if name in self._workers:
            worker = self._workers[name][1]
            worker.reroute({topic: self._execution(compiled, loaded.version, Owner.PIPELINE, worker)})
        else:
            await self._tell(loaded, CREATING, "joining its consumer group")
            worker = self._new_worker(self._topics.group(Owner.PIPELINE, name), depth, self._joiner(name, upstream))
            await worker.start({topic: self._execution(compiled, loaded.version, Owner.PIPELINE, worker)})
        self._workers[name], self._depths[name] = (loaded, worker), depth

    def _joiner(self, name: str, upstream: Upstream | None) -> Joiner | None:
        if upstream is None:
            return None
        # Windows last as long as they are set to, whatever is done to the machine's clock meanwhile.
        return Joiner(name, upstream, self._topics, self._settings, self._request_ids.new, time.monotonic)

    async def _stop_pipeline(self, name: str) -> None:
        _, worker = self._workers.pop(name)
        await self._end(worker)

    async def _leave(self, name: str) -> None:
        """Leave a pipeline to those who know how its state is written, until it is loaded anew."""
        loaded, worker = self._workers[name]
        await self._stop_pipeline(name)
        self._refused[name] = self._registry.view.resources.get(loaded.key, loaded)
        log.error("%s %s: %s", *loaded.key, worker.refusal)
        await self._tell(self._refused[name], FAILED, worker.refusal)

    async def _end(self, worker: Worker) -> None:
        await worker.stop()
        self._living.discard(worker)

    def _new_worker(self, group: str, depth: int | None, joiner: Joiner | None = None) -> Worker:
        worker = Worker(
            group,
            self._settings,
            Writers(self._outlet, self._offsets, self._transactions, self._topics.replies),
            self._budgets.setdefault(depth, Budget(self._settings.budget_bytes)),
            self._consumer_loop,
            holds_fetches=self._topology.holds_fetches,
            figures=self._figures,
            joiner=joiner,
        )
        self._living.add(worker)
        return worker

    def _execution(self, compiled: plan.Plan, version: int, owner: Owner, worker: Worker) -> Execution:
        return Execution(
            compiled,
            version,
            owner,
            self._topics,
            self._runtime_or_error,
            worker.checkpoints.finished,
            worker.checkpoints.answered,
            timeout=self._settings.request_timeout,
            max_message_bytes=self._settings.max_message_bytes,
            batch_max_wait=self._settings.batch_max_wait,
            new_request_id=self._request_ids.new,
            callers=self._callers,
            splits=self._splits,
            flow=self._figures.flow(owner, compiled.name),
        )

    def _runtime_or_error(self, name: str) -> Runtime:
        if (runtime := self.runtime(name) or self._leaving.get(name)) is not None:
            return runtime
        if name in self._failed:
            raise ModelFailed(f'model "{name}" could not be loaded: {self._failed[name][1]}')
        raise ModelFailed(f'model "{name}" is not loaded')

    async def _check(self) -> None:
        """Tell the state of everything that runs here, where it has changed."""
        # Of what could not be loaded anew an older version may run; what is told is of the new one.
        runtimes = [found for name, found in self._runtimes.items() if name not in self._failed]
        # All at once: servers that are away each take their time to be known as such.
        looks = await asyncio.gather(*(self._look(*found) for found in runtimes))
        found = [(loaded, *look) for (loaded, _), look in zip(runtimes, looks, strict=True)]
        found += [(loaded, (FAILED, reason), None) for loaded, reason in self._failed.values()]
        models = {loaded.key[1]: told for loaded, told, _ in found}
        for loaded, told, metadata in found:
            models[loaded.key[1]] = explained = self._as_explained(loaded, told, models)
            await self._tell(loaded, *explained, metadata)
        for name, (loaded, worker) in list(self._workers.items()):
            if self._refused.get(name) is not self._registry.view.resources.get(loaded.key):
                await self._tell(loaded, *self._pipeline_state(loaded, worker, models))
        workers = [worker for _, worker in self._workers.values()]
        if any(each.crashed or each.refusal for each in (*workers, self._models_worker) if each is not None):
            self._changed.set()

    async def _look(self, loaded: Loaded, runtime: Runtime) -> tuple[Told, Any]:
        """The state of a model, and where it may be news, what it says of its tensors."""
        ready = await runtime.ready()
        reason = self._lost.get(loaded.key, "" if ready else "the model does not answer that it is ready")
        told = self._told.get(loaded.key)
        is_news = told is None or (told.offset, told.state) != (loaded.offset, READY)
        metadata = await metadata_of(runtime, CHECK_SECONDS) if ready and is_news else None
        return ((FAILED, reason) if reason else (READY, "loaded")), metadata

    def _as_explained(self, loaded: Loaded, told: Told, models: Mapping[str, Told]) -> Told:
        """The state of a model; an explainer is no readier than what it explains, which is no explainer."""
        explainer = loaded.resource.explainer if isinstance(loaded.resource, Model) else None
        if explainer is None or told[0] != READY:
            return told
        return states.of_explainer(explainer, models, self._registry.view, self._clock())

    def _pipeline_state(self, loaded: Loaded, worker: Worker, models: Mapping[str, Told]) -> Told:
        pipeline = loaded.resource
        assert isinstance(pipeline, Pipeline)
        if worker.crashed:
            return FAILED, "its consumer has fallen over and is being replaced"
        if worker.refusal:
            return FAILED, worker.refusal
        if not worker.intake.assigned.is_set():
            return CREATING, "joining its consumer group"
        return states.of_pipeline(pipeline, models, self._registry.view)

    async def _tell(self, loaded: Loaded, state: str, reason: str, metadata: Any = None) -> None:
        told = self._told.get(loaded.key)
        if told is not None and (told.offset, told.state, told.reason) == (loaded.offset, state, reason):
            return
        said = State(loaded.key, self._instance, loaded.version, state, reason, self._clock(), metadata, loaded.offset)
        self._told[loaded.key] = said
        await self._registry.tell(said)
