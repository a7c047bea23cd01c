"""Registries of one namespace on a broker, and models to load into them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from engine.kafka.client import Topology
from engine.kafka.registry import Registry
from engine.kafka.view import Key, View, key_of
from engine.protocol.record import Topics
from engine.resources import Resource, documents, parse
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


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
