"""Builds what one process runs from Settings, starts it in order and stops it in order."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.dataflow.compiler import compile_pipeline
from engine.dataflow.experimenting import check_experiments
from engine.dataflow.explaining import check_explained
from engine.dataflow.external import check_upstreams, compile_input
from engine.dataflow.metadata import derive
from engine.errors import BrokerReplaced, BrokerUnavailable, InvalidResources
from engine.gateway.inference import DataPlane
from engine.gateway.observing import Window
from engine.gateway.server import Gateway
from engine.gateway.tracing import TracedDesk, TracedInference
from engine.gateway.ways import Ways
from engine.kafka import guarantee, reconnecting
from engine.kafka import view as reg
from engine.kafka.broker import EmbeddedBroker
from engine.kafka.client import Topology
from engine.kafka.heart import Heart
from engine.kafka.registry import Registry
from engine.kafka.replies import ReplyDesk
from engine.kafka.supervisor import Supervisor
from engine.protocol.record import Owner, RequestIds, Topics
from engine.resources import Experiment, Model, Pipeline, load
from engine.runtimes import choice
from engine.settings import host_and_port
from engine.telemetry.figures import Figures
from engine.ui.server import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from engine.gateway.inference import Inference, Target
    from engine.kafka.view import Key
    from engine.resources import Problem, Resource, Resources
    from engine.settings import Settings

# The embedded broker answers a lone member's join after about half its session timeout (measured), and nobody else
# takes its partitions over: short is right there.
EMBEDDED_SESSION_SECONDS = 2.0

# The embedded broker never frees memory. Over this, calls are refused with the reason rather than the machine swapping.
EMBEDDED_MEMORY_BYTES = 2 * 1024**3
MEMORY_CHECK_SECONDS = 1.0

# Callers in flight get this long to be answered when the process is told to stop.
GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Named:
    """Checked resources of files that were named, and the folder of each."""

    resources: tuple[Resource, ...]
    folders: dict[Key, str]


def read(
    paths: Iterable[str | Path], *, alone: bool = False, texts: Mapping[str, bytes] = MappingProxyType({})
) -> Named:
    """The resources of these files and folders. Raises InvalidResources with every fault in them.

    `alone`: there is nothing else that they could refer to; otherwise `check_references` tells what they lack.
    `texts`: what is no file but was read already, by the path that it goes by.
    """
    resources, problems = load(paths, texts)
    problems += check(resources)
    if alone:
        faulty = [resource for resource in resources.faulty if isinstance(resource, Pipeline)]
        problems += check_upstreams(resources.pipelines, faulty)
        problems += check_explained(
            (*resources.models, *resources.pipelines),
            [resource for resource in resources.faulty if isinstance(resource, Model | Pipeline)],
        )
        problems += check_experiments(
            (*resources.models, *resources.pipelines, *resources.experiments), resources.faulty
        )
    if problems:
        raise _invalid([*problems, *_check_faulty(resources, problems)])
    found: tuple[Resource, ...] = (*resources.models, *resources.pipelines, *resources.experiments)
    return Named(found, {reg.key_of(resource): folder_of(resource) for resource in found})


def check_references(named: Named, view: reg.View) -> None:
    """Whether those that these resources refer to are here or loaded already, and nothing goes in rings.

    What feeds pipelines, what explainers explain, whose calls experiments split. Raises InvalidResources with all.
    """
    present = [loaded.resource for loaded in view.resources.values()]
    problems = check_upstreams(_pipelines(named.resources), _pipelines(present))
    problems += check_explained(_run(named.resources), _run(present))
    problems += check_experiments(named.resources, present)
    if problems:
        raise _invalid(problems)


def _pipelines(resources: Iterable[Resource]) -> list[Pipeline]:
    return [resource for resource in resources if isinstance(resource, Pipeline)]


def _run(resources: Iterable[Resource]) -> list[Model | Pipeline]:
    """Those that workers run."""
    return [resource for resource in resources if isinstance(resource, Model | Pipeline)]


def _invalid(problems: list[Problem]) -> InvalidResources:
    problems.sort(key=lambda problem: (problem.place.file, problem.place.line, problem.place.column))
    return InvalidResources(problems)


def check(resources: Resources) -> list[Problem]:
    """What stands against running these resources, beyond what their own files show."""
    sound: tuple[Model | Pipeline, ...] = (*resources.models, *resources.pipelines)
    return [problem for resource in sound for problem in _check_one(resource)]


def _check_faulty(resources: Resources, told: Iterable[Problem]) -> list[Problem]:
    """What else can be said of resources that have faults already, but for the lines that were spoken of."""
    lines = {(problem.place.file, problem.place.line) for problem in told}
    found = [problem for resource in resources.faulty for problem in _check_one(resource)]
    return [problem for problem in found if (problem.place.file, problem.place.line) not in lines]


def _check_one(resource: Resource) -> list[Problem]:
    if isinstance(resource, Model):
        return choice.check(resource)
    if isinstance(resource, Pipeline):
        return [*compile_pipeline(resource)[1], *compile_input(resource)[1]]
    return []


def folder_of(resource: Resource) -> str:
    """The folder that a resource's relative paths and Python modules are looked up in."""
    return str(Path(resource.document.file).absolute().parent)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process runs: `up` runs all, `worker` and `gateway` one part each."""

    broker: bool = False
    worker: bool = False
    gateway: bool = False


async def first_end(*ends: Coroutine[Any, Any, None]) -> None:
    """Return or raise as the first of these does; the others are cancelled."""
    tasks = [asyncio.create_task(end) for end in ends]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in tasks:
            task.cancel()


class Process:
    """One process of the product.

    progress   told in a few words what is being waited for while it starts
    """

    def __init__(
        self, settings: Settings, parts: Parts, named: Named, progress: Callable[[str], None] = lambda _: None
    ) -> None:
        self.parts, self.named, self._progress = parts, named, progress
        self.settings = settings
        self.topics = Topics(settings.topic_prefix, settings.namespace)
        self.instance = f"{random.getrandbits(48):012x}"
        self._request_ids = RequestIds(_machine(), random.getrandbits(24), time.time)
        self.broker: EmbeddedBroker | None = None
        self.gateway: Gateway | None = None
        self.page: Page | None = None
        self._desk: ReplyDesk | None = None
        self.supervisor: Supervisor | None = None
        self._heart: Heart | None = None
        self._stops: list[Callable[[], object]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._refusal: str | None = None
        self._broker_gone = False
        self.figures = Figures(self._is_known)

    @property
    def listening(self) -> str:
        """HOST:PORT of its gateway, or where it would be."""
        if self.gateway is None:
            return self.settings.listen
        host, port = self.gateway.address
        return f"{host}:{port}"

    @property
    def showing(self) -> str:
        """HOST:PORT of its page, or where it would be."""
        if self.page is None:
            return self.settings.ui_listen
        host, port = self.page.address
        return f"{host}:{port}"

    async def start(self) -> None:
        """Start everything in order; what was started is stopped again when a later part cannot start."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything in the opposite order: no new calls, answers for those in flight, then the rest."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            while self._stops:
                stopped = self._stops.pop()()
                if asyncio.iscoroutine(stopped):
                    await stopped
        finally:
            reconnecting.admit()

    async def ended(self) -> None:
        """Return or raise when the process cannot go on.

        Its embedded broker has died, another cluster answers in the broker's place, or what reads the registry or
        replies, or the supervisor, has failed.
        """
        ends = [self._broker_ended(), self._broker_replaced(), self.registry.ended()]
        if self._desk is not None:
            ends.append(self._desk.ended())
        if self.supervisor is not None:
            ends.append(self.supervisor.ended())
        await first_end(*ends)

    async def _broker_ended(self) -> None:
        if self.broker is None:
            await asyncio.Event().wait()
            return
        try:
            await self.broker.exited
        except BrokerUnavailable as error:
            self._lose_broker(error)
            raise

    async def _broker_replaced(self) -> None:
        try:
            await self.topology.watch()
        except BrokerReplaced as error:
            if self.broker is not None:
                await asyncio.Event().wait()  # its own watch tells how it ended
            self._lose_broker(error)
            if self._desk is not None:
                self._desk.give_up(str(error))
            raise

    def _lose_broker(self, error: Exception) -> None:
        """What was on it is gone; whoever comes in its place is not to get what is on its way to it."""
        self._broker_gone = True
        reconnecting.bar(str(error))

    async def ready(self) -> None:
        """Wait until everything that was named is ready, or has failed."""
        registry = self.registry
        keys = [reg.key_of(resource) for resource in self.named.resources]
        while True:
            states = {key: registry.view.state(key, time.time()) for key in keys}
            waiting = [key for key, state in states.items() if state is None or state.state == reg.CREATING]
            if not waiting:
                return
            names = ", ".join(f"{kind} {name}" for kind, name in waiting[:3])
            self._progress(f"{len(keys) - len(waiting)} of {len(keys)} ready, waiting for {names}")
            await registry.wait(0.5)

    def _start_tracing(self) -> None:
        """Record spans where that is asked for; otherwise not even the libraries for it are loaded."""
        if self.settings.tracing_config:
            from engine.telemetry import export  # noqa: PLC0415  of no use to those who do not trace

            tracing = export.Tracing.read(Path(self.settings.tracing_config))
            if tracing is not None:
                self.figures.spans, stop = export.connect(tracing, self.instance, self.settings.namespace)
                self._stops.append(stop)

    async def _start(self) -> None:
        self._start_tracing()
        if self.parts.broker and not self.settings.kafka_broker:
            await self._start_broker()
        elif not self.settings.kafka_broker:
            raise BrokerUnavailable("no broker is named; give --kafka-broker HOST:PORT, or run `seldon up`")
        self._progress(f"connecting to the broker at {self.settings.kafka_broker}")
        self.topology = Topology(self.settings)
        await self.topology.start()
        self._stops.append(self.topology.stop)
        self.figures.kafka = lambda: self.topology.fault
        if self.parts.worker:
            self.settings = await guarantee.settle(self.settings, self.topology, self.topics, self.instance)
        self.registry = Registry(self.settings, self.topics, self._changed)
        self._stops.append(self.registry.stop)
        await self.registry.start(self.topology)
        await self._start_window()
        await self.registry.load(
            self.named.resources, self.named.folders, lambda view: check_references(self.named, view)
        )
        self._heart = Heart(self.registry, self.instance, time.time, self._retell)
        self._stops.append(self._stop_heart)
        if self.parts.gateway:
            # Before the worker, whose explainers wait for answers as callers do, and until it has drained.
            self._desk = ReplyDesk(self.settings, self.topics, self.topology, self.instance)
            self._stops.append(self._desk.stop)
            await self._desk.start()
        if self.parts.worker:
            await self._start_worker()
        if self.parts.gateway:
            await self._start_gateway()

    async def _start_broker(self) -> None:
        self._progress("starting the embedded broker")
        self.broker = EmbeddedBroker(self.settings.kafka_listen)
        await self.broker.start()
        self._stops.append(self.broker.stop)
        session = min(self.settings.session_timeout, EMBEDDED_SESSION_SECONDS)
        self.settings = replace(self.settings, kafka_broker=self.broker.address, session_timeout=session)
        self._tasks.append(asyncio.create_task(self._watch_memory(self.broker)))

    async def _start_window(self) -> None:
        if self.settings.metrics_listen:
            window = Window(self.figures)
            self._stops.append(window.stop)
            await window.start(*host_and_port(self.settings.metrics_listen, "metrics_listen"))

    def _is_known(self, owner: Owner, name: str) -> bool:
        """Whether a resource is loaded, as far as figures are kept of it: an explainer is a model."""
        kind = Owner.MODEL if owner is Owner.EXPLAINER else owner
        return (str(kind), name) in self.registry.view.resources

    async def _start_worker(self) -> None:
        self._progress("loading models and joining consumer groups")
        self.supervisor = Supervisor(
            self.settings,
            self.topics,
            self.topology,
            self.registry,
            self._request_ids,
            instance=self.instance,
            trusted=sorted(set(self.named.folders.values())),
            clock=time.time,
            figures=self.figures,
            desk=self._desk,
        )
        self._stops.append(self._stop_worker)
        await self.supervisor.start()
        if self._heart is not None:
            await self._heart.takes_part(reg.WORKER)

    async def _stop_worker(self) -> None:
        if self.supervisor is not None:
            await self.supervisor.stop(drain=not self._broker_gone)

    async def _start_gateway(self) -> None:
        desk = self._desk
        assert desk is not None
        supervisor = self.supervisor
        catalogue = _Catalogue(self.registry)
        traced = self.figures.spans
        plane: Inference = DataPlane(
            self.settings,
            self.topics,
            catalogue,
            desk if traced is None else TracedDesk(desk, traced),
            self._request_ids,
            runtime=supervisor.models.runtime if supervisor is not None else lambda _: None,
            refusal=lambda: self._refusal,
            way=Ways(catalogue.experiment, catalogue.usable, random.random).of,
            copy=desk.copy,
            drawn=self.figures.draw,
        )
        self.gateway = Gateway(
            plane if traced is None else TracedInference(plane, traced),
            max_message_bytes=self.settings.max_message_bytes,
            request_timeout=self.settings.request_timeout,
            figures=self.figures,
        )
        await self.gateway.start(*host_and_port(self.settings.listen, "--listen"))
        self._stops.append(lambda: self.gateway.stop(GRACE_SECONDS) if self.gateway else None)
        if self.settings.ui_listen:
            await self._start_page(plane)
        if self._heart is not None:
            await self._heart.takes_part(reg.GATEWAY)

    async def _start_page(self, plane: Inference) -> None:
        page = Page(self.settings, self.topics, self.registry.view, self.figures, plane)
        self._stops.append(page.stop)
        await page.start(*host_and_port(self.settings.ui_listen, "--ui-listen"))
        self.page = page

    async def _stop_heart(self) -> None:
        if self._heart is not None:
            await self._heart.stop(tell=not self._broker_gone)

    def _retell(self) -> None:
        if self.supervisor is not None:
            self.supervisor.retell()

    def _changed(self) -> None:
        if self._heart is not None:
            self._heart.changed()
        if self.supervisor is not None:
            self.supervisor.changed()

    async def _watch_memory(self, broker: EmbeddedBroker) -> None:
        while True:
            used = broker.rss_bytes() or 0
            self._refusal = (
                f"the embedded broker holds {used >> 20} MB, its limit; restart to free it, or use Apache Kafka"
                if used > EMBEDDED_MEMORY_BYTES
                else None
            )
            await asyncio.sleep(MEMORY_CHECK_SECONDS)


class _Catalogue:
    """The registry as the gateway sees it."""

    def __init__(self, registry: Registry) -> None:
        self._view = registry.view

    def version(self, target: Target) -> int | None:
        loaded = self._loaded(target)
        return loaded.version if loaded else None

    def answers(self, target: Target) -> bool:
        if target.owner is not Owner.PIPELINE:
            return True
        loaded = self._loaded(target)
        return loaded is not None and isinstance(loaded.resource, Pipeline) and loaded.resource.output is not None

    def ready(self, target: Target) -> bool:
        loaded = self._loaded(target)
        return loaded is not None and self._view.serves(loaded.key, time.time())

    def unready(self, target: Target) -> str:
        loaded, now = self._loaded(target), time.time()
        state = self._view.state(loaded.key, now) if loaded else None
        return state.reason if state else self._view.silence(now)

    def experiment(self, target: Target) -> Experiment | None:
        """The experiment that a target is, or that splits its calls."""
        if target.owner is not Owner.EXPERIMENT:
            return self._view.splits.get((str(target.owner), target.name))
        loaded = self._loaded(target)
        return loaded.resource if loaded is not None and isinstance(loaded.resource, Experiment) else None

    def usable(self, target: Target) -> bool:
        """Whether a target is there and nobody says that it fails."""
        loaded = self._loaded(target)
        state = self._view.state(loaded.key, time.time()) if loaded else None
        return loaded is not None and (state is None or state.state != reg.FAILED)

    def _loaded(self, target: Target) -> reg.Loaded | None:
        """The resource behind a target: an explainer is a model."""
        if target.owner is not Owner.EXPLAINER:
            return self._view.resources.get((str(target.owner), target.name))
        loaded = self._view.resources.get((str(Owner.MODEL), target.name))
        is_explainer = loaded is not None and isinstance(loaded.resource, Model) and loaded.resource.explainer
        return loaded if is_explainer else None

    def metadata(self, target: Target) -> Any:
        """A model's as an instance tells it; a pipeline's from those of its steps."""
        loaded = self._loaded(target)
        if loaded is None or not isinstance(loaded.resource, Pipeline):
            return self._told(target.name)
        plan = compile_pipeline(loaded.resource)[0]
        if plan is None:
            return None
        told = {step.name: self._told(step.name) for step in loaded.resource.steps}
        return derive(plan, {name: metadata for name, metadata in told.items() if metadata is not None})

    def _told(self, model: str) -> Any:
        state = self._view.state((str(Owner.MODEL), model), time.time())
        return state.metadata if state is not None else None


def _machine() -> bytes:
    """Five bytes that tell this machine and process apart, for request ids."""
    host = socket.gethostname().encode()
    digest = zlib.crc32(host) & 0xFFFFFF
    return digest.to_bytes(3, "big") + (os.getpid() & 0xFFFF).to_bytes(2, "big")


def summary(named: Named) -> str:
    """`2 pipelines, 3 models`, and experiments where there are some."""
    counted = {
        kind: sum(isinstance(resource, each) for resource in named.resources)
        for kind, each in (("pipeline", Pipeline), ("model", Model), ("experiment", Experiment))
    }
    told = [(kind, count) for kind, count in counted.items() if count or kind != "experiment"]
    return ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in told)


def failed(view: reg.View, resources: Sequence[Resource], now: float) -> list[tuple[Key, str]]:
    """The resources that are not ready, each with its reason."""
    found = []
    for resource in resources:
        state = view.state(reg.key_of(resource), now)
        if state is None or state.state != reg.READY:
            found.append((reg.key_of(resource), state.reason if state else view.silence(now)))
    return found
