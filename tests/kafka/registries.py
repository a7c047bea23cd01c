"""Registries of one namespace on a broker, and what is loaded into them or written of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from engine.kafka.client import Topology
from engine.kafka.registry import Registry
from engine.kafka.view import Key, Loaded, View, key_of
from engine.protocol.record import Topics
from engine.resources import Resource, documents, parse
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from engine.kafka.view import State


@contextlib.asynccontextmanager
async def registry(
    broker: str, namespace: str, changed: Callable[[], None] | None = None, **settings: Any
) -> AsyncIterator[Registry]:
    """A registry that follows its topics."""
    wanted = Settings(kafka_broker=broker, namespace=namespace, **settings)
    topology = Topology(wanted)
    await topology.start()
    made = Registry(wanted, Topics(wanted.topic_prefix, namespace), changed)
    try:
        await made.start(topology)
        yield made
    finally:
        await made.stop()
        await topology.stop()


def model(name: str, memory: str = "1Mi") -> Resource:
    head = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\n"
    text = f"{head}metadata: {{name: {name}}}\nspec: {{storageUri: 'python:a:b', memory: {memory}}}\n"
    found, problems = parse(documents(text, "r.yaml")[0][0])
    assert found is not None, problems
    return found


def folders(*resources: Resource) -> dict[Key, str]:
    return dict.fromkeys(map(key_of, resources), "/models")


def names(view: View) -> dict[str, int]:
    """The names that are loaded, with their versions."""
    return {name: loaded.version for (_, name), loaded in view.resources.items()}


def loaded(kind: str, name: str, spec: str, *, version: int = 1) -> Loaded:
    """A resource as the registry holds it, each version in a record of its own."""
    head = f"apiVersion: mlops.seldon.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n"
    found, problems = parse(documents(f"{head}spec: {spec}\n", "r.yaml")[0][0])
    assert found is not None, problems
    return Loaded(key_of(found), found, version, "", version)


class StatusTopic:
    """Remembers what one process says of states, in the order that it is said."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.forgotten: list[tuple[Key, str]] = []

    async def write(self, state: State) -> None:
        self.states.append(state)

    async def forget(self, key: Key, instance: str) -> None:
        self.forgotten.append((key, instance))

    @property
    def told(self) -> list[tuple[int, str, str]]:
        return [(each.version, each.state, each.reason) for each in self.states]
