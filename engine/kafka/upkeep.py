"""The topics of what is loaded: makes those that are needed, and finds out what cannot work with what is there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine.errors import TopicRefused, UnequalPartitions
from engine.kafka import needs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.kafka.client import Topology
    from engine.kafka.view import Key, Loaded
    from engine.protocol.record import Topics
    from engine.resources import TopicOptions

log = logging.getLogger(__name__)


class Upkeep:
    """Keeps the topics of resources.

    made    resources as they were when their topics were made
    lost    those of them whose topics somebody has deleted or grown since, and what is wrong, in words
    unfit   those that cannot work with what is there, and why: what is lost, topics that cannot be had, and those with
            another number of partitions than the namespace
    """

    def __init__(self, topics: Topics, topology: Topology) -> None:
        self._topics, self._topology = topics, topology
        self.made: dict[Key, Loaded] = {}
        self.lost: dict[Key, str] = {}
        self.unfit: dict[Key, str] = {}

    async def ensure(self, resources: Mapping[Key, Loaded]) -> None:
        """Create every topic that these resources need. Raises BrokerUnavailable."""
        # What was lost is made again when its resource is loaded anew, and not behind an administrator's back.
        self.lost = {key: words for key, words in self.lost.items() if self.made.get(key) is resources.get(key)}
        wanted = {key: self._needs(loaded) for key, loaded in resources.items() if key not in self.lost}
        options = needs.options(self._topics, (loaded.resource for loaded in resources.values()))
        self.unfit = dict(self.lost)
        try:
            await self._ensure(resources, wanted, options)
        except (UnequalPartitions, TopicRefused):
            for key, names in wanted.items():
                try:
                    await self._ensure(resources, {key: names}, options)
                except (UnequalPartitions, TopicRefused) as error:
                    self.unfit[key] = str(error)
        usable = {name for key, names in wanted.items() if key not in self.unfit for name in names}
        await self._topology.compare(usable, options)
        self.made = {key: resources[key] for key in {*wanted, *self.lost}}

    async def _ensure(
        self, resources: Mapping[Key, Loaded], wanted: Mapping[Key, Sequence[str]], options: Mapping[str, TopicOptions]
    ) -> None:
        await self._topology.ensure({name for names in wanted.values() for name in names}, options)
        joins = (needs.joins(self._topics, resources[key].resource) for key in wanted)
        await self._topology.ensure_changelogs({name for names in joins for name in names})

    async def look(self, resources: Mapping[Key, Loaded]) -> dict[Key, str]:
        """Which of these resources have lost their topics by now, and how. Raises BrokerUnavailable."""
        wanted = {key: self._needs(loaded) for key, loaded in self.made.items() if resources.get(key) is loaded}
        faults = await self._topology.faults({name for names in wanted.values() for name in names})
        return first_faults(wanted, faults)

    def lose(self, lost: Mapping[Key, str]) -> set[Key]:
        """These have lost their topics, and no others: those that had not before, and those that have them again."""
        turned = lost.keys() ^ self.lost.keys()
        for key in lost.keys() - self.lost.keys():
            log.error("%s %s: %s", *key, lost[key])
        self.lost = dict(lost)
        return turned

    def _needs(self, loaded: Loaded) -> list[str]:
        return needs.needed(self._topics, loaded.resource)


def first_faults(wanted: Mapping[Key, Iterable[str]], faults: Mapping[str, str]) -> dict[Key, str]:
    """What is wrong with the first faulty topic of each resource; without those whose topics are all well.

    wanted   the topics that each needs
    faults   what is wrong with topics, in words
    """
    return {
        key: faults[names[0]] for key, each in wanted.items() if (names := [name for name in each if name in faults])
    }
