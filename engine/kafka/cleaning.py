"""Deletes the topics of what was unloaded, where it says `cleanTopicsOnDelete`, once nobody uses them any more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine.errors import EngineError, TopicRefused
from engine.kafka import needs
from engine.kafka.client import Topology
from engine.kafka.view import WORKER
from engine.protocol.record import Topics
from engine.resources import Experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.kafka.registry import Registry
    from engine.kafka.view import Key, Loaded, View
    from engine.resources import Resource
    from engine.settings import Settings

log = logging.getLogger(__name__)


def wants_cleaning(resource: Resource) -> bool:
    """Whether a resource's topics are to go with it."""
    return not isinstance(resource, Experiment) and resource.clean_topics_on_delete


def to_clean(topics: Topics, resource: Resource, users: Iterable[Resource]) -> list[str]:
    """The topics that go with a resource: all of its own or, as long as one is needed by any of `users`, none."""
    own = needs.own(topics, resource)
    used = {name for user in users for name in needs.needed(topics, user)}
    return [] if used.intersection(own) else [*own, *needs.joins(topics, resource)]


async def clean_unattended(settings: Settings, view: View, gone: Iterable[Resource], now: float) -> None:
    """Delete the topics of what was just unloaded where no worker lives, which would do it.

    Raises BrokerUnavailable, and TopicRefused when the broker does not delete them.
    """
    if any(WORKER in instance.parts for instance in view.living(now)):
        return
    topics, users = (
        Topics(settings.topic_prefix, settings.namespace),
        [each.resource for each in view.resources.values()],
    )
    names = [name for each in gone if wants_cleaning(each) for name in to_clean(topics, each, users)]
    if not names:
        return
    topology = Topology(settings)
    try:
        await topology.start()
        await topology.delete(names)
    finally:
        await topology.stop()


class Cleaner:
    """Follows what is unloaded. Every worker does so: whoever is first deletes, the others find nothing.

    holds   whether this process still runs something of a resource that was unloaded
    """

    def __init__(
        self,
        topics: Topics,
        topology: Topology,
        registry: Registry,
        holds: Callable[[Key], bool],
        clock: Callable[[], float],
    ) -> None:
        self._topics, self._topology, self._registry = topics, topology, registry
        self._holds, self._clock = holds, clock
        self._gone: dict[Key, Loaded] = {}

    def follow(self, before: Mapping[Key, Loaded], now: Mapping[Key, Loaded]) -> None:
        """Take note of what was loaded and is not any more."""
        self._gone.update({key: loaded for key, loaded in before.items() if key not in now})
        for key in self._gone.keys() & now.keys():
            del self._gone[key]
        # Another worker may be the one that deletes them, and then they are to be made when they are needed again.
        self._topology.forget(
            name
            for loaded in self._gone.values()
            if wants_cleaning(loaded.resource)
            for name in (*needs.own(self._topics, loaded.resource), *needs.joins(self._topics, loaded.resource))
        )

    async def clean(self) -> None:
        """Delete what can be deleted by now; what cannot is looked at again the next time."""
        if not any(wants_cleaning(loaded.resource) for loaded in self._gone.values()):
            self._gone = {key: loaded for key, loaded in self._gone.items() if self._is_held(key)}
            return
        # A load that was written a moment ago would find its topics gone.
        await self._registry.caught_up()
        loaded = self._registry.view.resources
        held = {key: each for key, each in self._gone.items() if self._is_held(key)}
        for key, each in list(self._gone.items()):
            if key in held or key in loaded:
                continue
            users = [user.resource for user in (*loaded.values(), *held.values())]
            if not wants_cleaning(each.resource) or await self._delete(to_clean(self._topics, each.resource, users)):
                del self._gone[key]

    def _is_held(self, key: Key) -> bool:
        return self._holds(key) or bool(self._registry.view.living_states(key, self._clock()))

    async def _delete(self, names: list[str]) -> bool:
        """Whether there is nothing more to be done about these topics."""
        try:
            await self._topology.delete(names)
        except TopicRefused as error:
            log.warning("%s", error)
        except EngineError as error:
            log.warning("topics are not deleted yet, trying again: %s", error)
            return False
        return bool(names)
