"""One loader of a namespace at a time: resources are checked against what stands, and written, in one transaction.

All loaders take the same transactional id, and who takes it fences whoever had it before. So a loader takes it, reads
the topic to its end, checks, writes and commits; one that was fenced meanwhile has written nothing and starts again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, TypeAlias

from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from engine.errors import BrokerUnavailable, TooLarge
from engine.kafka.leases import NOBODY
from engine.kafka.transactions import Producer, Unclear
from engine.kafka.writing import BatchTooLarge
from engine.settings import AT_LEAST_ONCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from engine.kafka.view import View
    from engine.kafka.writing import Record
    from engine.protocol.record import Topics
    from engine.settings import Settings

log = logging.getLogger(__name__)

# A record of the resources topic, and which of them a view of what stands calls for.
Change: TypeAlias = "tuple[str, bytes | None]"
Changes: TypeAlias = "Callable[[View], Sequence[Change]]"

# A load takes some tens of ms; so many loaders that one is fenced for this long are told.
LOAD_SECONDS = 30.0

# Loaders that fence each other wait for a random part of this, twice as long each time, so that one gets through.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


class Fence:
    """Writes what a view calls for, and nobody else writes meanwhile.

    caught_up   waits until the topic's end is beyond what it is given, and the view has all up to there; gives the end
    """

    def __init__(
        self, settings: Settings, topics: Topics, view: View, caught_up: Callable[[int], Awaitable[int]]
    ) -> None:
        self._settings, self._topics, self._view, self._caught_up = settings, topics, view, caught_up
        self._producer = Producer(settings, f"{settings.topic_prefix}.{settings.namespace}.loader")

    async def stop(self) -> None:
        """Close the connection."""
        await self._producer.stop()

    async def write(self, changes: Changes) -> bool:
        """Write what the view calls for, all or nothing. False where it was asked to do without transactions.

        `changes` is called each time anew, and what it raises goes through. Raises BrokerUnavailable.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOAD_SECONDS
        pause = FIRST_PAUSE
        while True:
            try:
                await self._write(changes)
            except BatchTooLarge as error:
                raise TooLarge(f"{error}; raise its max.message.bytes") from error
            except GroupCoordinatorNotAvailableError as error:
                return self._without(error)
            except (KafkaError, TimeoutError, OSError, Unclear) as error:
                if loop.time() > deadline:
                    raise self._gave_up(error) from error
                log.info("loading again: %s", error or type(error).__name__)
            else:
                return True
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311  no secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _write(self, changes: Changes) -> None:
        await self._producer.recover()
        if not self._producer.usable:
            # Something was ended again. Waits for its markers: the end must not move but for what is written here.
            await self._producer.recover()
        end = await self._caught_up(-1)
        records: list[Record] = [(key.encode(), value, []) for key, value in changes(self._view)]
        if records:
            await self._producer.transact("", NOBODY, {}, {(self._topics.resources, 0): records})
            await self._caught_up(end)

    def _without(self, error: Exception) -> bool:
        if self._settings.processing_guarantee == AT_LEAST_ONCE:
            log.warning("loading without a transaction, so that the last of several loads wins: %s", error)
            return False
        raise BrokerUnavailable(
            f"the broker at {self._settings.kafka_broker} runs no transactions ({error}); on a single broker set "
            f"transaction.state.log.replication.factor=1 there, or SELDON_PROCESSING_GUARANTEE={AT_LEAST_ONCE} here"
        ) from error

    def _gave_up(self, error: Exception) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._topics.resources} at {self._settings.kafka_broker} could not be written within "
            f"{LOAD_SECONDS:g} s ({error or type(error).__name__}); look at what `seldon status` shows, and try again"
        )
