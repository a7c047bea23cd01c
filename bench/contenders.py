"""The programs that are measured: each is started on a work's topics, and does all of it."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench import ROOT, environment
from bench.processes import SELDON, Process, Team

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.works import Layout

Guarantee = Literal["at least once", "exactly once"]
Speed = Literal["fast", "middling", "slow"]


@dataclass(frozen=True, slots=True)
class Job:
    """Where a contender works, and on what."""

    address: str
    partitions: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that does a work.

    speed      how many requests it is given: fewer for a slow one, so that each works for some seconds
    computes   whether its answers can be checked
    groups     whose committed offsets say how much is answered, each with its topic; None where that is what is written
    start      the process, as a context
    agent      whether it also passes over what it wrote, in the models' group
    """

    name: str
    title: str
    guarantee: Guarantee
    speed: Speed
    computes: bool
    start: Callable[[Job], contextlib.AbstractContextManager[Process | Team]]
    groups: Callable[[Layout], Mapping[str, str]] | None = None
    agent: bool = False

    @property
    def foreign(self) -> bool:
        """Whether it needs the peers' environment."""
        return self.name.startswith(("quix", "faststream", "bytewax"))


@contextlib.contextmanager
def _ours(job: Job, guarantee: str, workers: int) -> Iterator[Process | Team]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "work.yaml").write_text(job.layout.work.resources)
        command = [
            *(SELDON, "worker", folder, "--kafka-broker", job.address),
            *("--namespace", job.layout.namespace, "--partitions", str(job.partitions)),
        ]
        environment = {"SELDON_PROCESSING_GUARANTEE": guarantee, "PYTHONPATH": str(ROOT)}
        made = [Process(command, **environment) for _ in range(workers)]
        with made[0] if workers == 1 else Team(made) as process:
            yield process


def ours(guarantee: Guarantee, workers: int = 1) -> Contender:
    """`seldon worker`, with the agent that serves the models' own topics running."""
    once = guarantee == "exactly once"
    named = "exactly_once" if once else "at_least_once"
    return Contender(
        name="exactly" if once else "ours",
        title="seldon worker",
        guarantee=guarantee,
        speed="fast",
        computes=True,
        start=lambda job: _ours(job, named, workers),
        groups=(lambda layout: layout.pipeline_groups) if once else None,
        agent=True,
    )


def bare(guarantee: Guarantee) -> Contender:
    """The bare aiokafka loop: the limit."""
    once = guarantee == "exactly once"

    def start(job: Job) -> Process:
        [reads] = job.layout.inputs
        command = [sys.executable, "-m", "bench.peers.bare_loop"]
        return Process(
            command,
            BOOTSTRAP=job.address,
            READS=reads,
            WRITES=",".join(job.layout.written(0)),
            GROUP=_group(job.layout, "bare"),
            GUARANTEE=guarantee.replace(" ", "-"),
        )

    return Contender(
        name="bare-exactly" if once else "bare",
        title="bare aiokafka loop",
        guarantee=guarantee,
        speed="fast",
        computes=False,
        start=start,
        groups=(lambda layout: _grouped(layout, "bare")) if once else None,
    )


def _quix(guarantee: Guarantee) -> Contender:
    once = guarantee == "exactly once"
    named = guarantee.replace(" ", "-")
    return Contender(
        name="quix-exactly" if once else "quix",
        title="Quix Streams",
        guarantee=guarantee,
        speed="middling",
        computes=True,
        start=lambda job: _peer(str(environment.PEERS.python), job, "quix", GUARANTEE=named),
        groups=(lambda layout: _grouped(layout, "quix")) if once else None,
    )


def _peer(python: str, job: Job, module: str, *arguments: str, **more: str) -> Process:
    command = [python, "-m", f"bench.peers.{module}", *arguments]
    return Process(command, BOOTSTRAP=job.address, NAMESPACE=job.layout.namespace, **more)


def _foreign(name: str, title: str, module: str) -> Contender:
    def start(job: Job) -> Process:
        return _peer(str(environment.PEERS.python), job, module)

    return Contender(name, title, "at least once", "middling", True, start)


def _faust(job: Job) -> Process:
    return _peer(sys.executable, job, "plain_faust", "worker", "--loglevel", "error", "--without-web")


def _group(layout: Layout, name: str) -> str:
    return f"{layout.namespace}.{name}"


def _grouped(layout: Layout, name: str) -> dict[str, str]:
    [topic] = layout.inputs
    return {_group(layout, name): topic}


CHAIN: tuple[Contender, ...] = (
    ours("at least once"),
    ours("exactly once"),
    _quix("at least once"),
    _quix("exactly once"),
    Contender("faust", "Faust agent", "at least once", "slow", True, _faust),
    _foreign("faststream", "FastStream, batches", "fast_stream"),
    _foreign("bytewax", "Bytewax", "bytewax_flow"),
    bare("at least once"),
    bare("exactly once"),
)
"""Who does the tfsimples chain. The others know no work but this one."""
