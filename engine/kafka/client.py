"""Connections to a broker from Settings: producers, readers by assignment, topics."""

from __future__ import annotations

import asyncio
import functools
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import aiokafka.client
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from engine.errors import BrokerReplaced, BrokerUnavailable, TopicRefused, UnequalPartitions
from engine.kafka import differences, probing, reconnecting, unpacking
from engine.kafka.security import security
from engine.resources import TopicOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.settings import Settings

log = logging.getLogger(__name__)

# Its clients ask about topics in a way that has a broker make those it lacks, with a number of partitions of its own:
# what somebody deletes would come back by itself, and not as it was. There is no option for it.
aiokafka.client.MetadataRequest = functools.partial(MetadataRequest, allow_auto_topic_creation=False)

reconnecting.install()
unpacking.install()

# A broker that does not answer in this time while we start is told of, not waited for.
CONNECT_TIMEOUT = 20.0

# A client of a broker that is away flushes and says good-bye in vain for longer than anybody waits for a stop.
STOP_TIMEOUT = 5.0
STOP_LOOK_SECONDS = 0.2

# Room for what a record has beside its value: key, headers, and the batch around it.
OVERHEAD_BYTES = 1024 * 1024

# One batch per partition and checkpoint is enough of a unit; larger ones only cost memory.
BATCH_BYTES = 512 * 1024

# aiokafka waits this long after CONCURRENT_TRANSACTIONS and other retriable errors; its default of 100 ms is a
# caller's whole patience.
RETRY_BACKOFF_MS = 10

# The same for consumers of groups, of which there are many: at 10 ms a process took a quarter of a core while its
# broker was away.
GROUP_BACKOFF_MS = 50

# Apache Kafka answers a fetch as soon as there is a record, so its wait only bounds idle traffic.
FETCH_WAIT_MS = 500

# The same for consumers of groups, of which there are many: 200 that wait took 35 % of a core at 500 ms. A rebalance
# may have to wait for it.
GROUP_FETCH_WAIT_MS = 800

# Where the embedded broker holds a fetch for its whole wait, this is as long as anybody should be held.
SHORT_FETCH_WAIT_MS = 5

# How often it is looked whether the cluster is still the same one.
CLUSTER_SECONDS = 1.0

_LOST = "what was on its topics is gone, with all that `seldon load` put there"

# Answers are useless to callers who have gone; this only bounds what lies on the disk.
REPLIES_RETENTION_MS = 10 * 60 * 1000

# CreatePartitions: every Apache Kafka since 1.0 has it, the embedded broker has not.
_CREATE_PARTITIONS = 37

# InitProducerId, AddPartitionsToTxn, EndTxn, DescribeTransactions.
_TRANSACTIONS = (22, 24, 26, 65)

# Every instance says every few seconds that it lives, and a broker compacts no segment that is still written to: with
# its default of a week, whoever reads the states would read a hundred thousand records of each.
COMPACTED_SEGMENT_MS = 10 * 60 * 1000

# What a broker answers about a topic that it will not have as it is asked for: its name, its number of partitions or of
# replicas, its settings, a rule of the broker's, or that we may not make or delete it. Anything else may pass.
_REFUSALS = {17, 29, 37, 38, 40, 42, 44, 73}

# Not every broker tells its settings, nor to everybody.
_DESCRIBE_CONFIGS = 32


def connection(settings: Settings) -> dict[str, Any]:
    """What every client needs to reach the broker. Raises InvalidSettings for certificates that cannot be used."""
    return {
        "bootstrap_servers": settings.kafka_broker.split(","),
        "client_id": settings.topic_prefix,
        **security(settings),
    }


def new_producer(settings: Settings, *, idempotent: bool = False) -> AIOKafkaProducer:
    """A producer whose records are acknowledged by all replicas; start it before use."""
    return AIOKafkaProducer(
        **connection(settings),
        acks="all",
        enable_idempotence=idempotent,
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        max_request_size=settings.max_message_bytes + OVERHEAD_BYTES,
        retry_backoff_ms=RETRY_BACKOFF_MS,
    )


def new_reader(
    settings: Settings,
    *,
    fetch_wait_ms: int = FETCH_WAIT_MS,
    isolation: str = "read_committed",
    fetch_bytes: int | None = None,
) -> AIOKafkaConsumer:
    """A consumer in no group: give it partitions by `assign`. It reads what is committed, unless told otherwise.

    `fetch_bytes` is how much it asks for of each partition at once; a larger record comes all the same.
    """
    return AIOKafkaConsumer(
        **connection(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation,
        fetch_max_wait_ms=fetch_wait_ms,
        fetch_max_bytes=settings.max_message_bytes + OVERHEAD_BYTES,
        max_partition_fetch_bytes=fetch_bytes or settings.max_message_bytes + OVERHEAD_BYTES,
        retry_backoff_ms=RETRY_BACKOFF_MS,
    )


async def start(client: Any, settings: Settings) -> None:
    """Start a client; BrokerUnavailable when the broker does not answer in time."""
    try:
        await asyncio.wait_for(client.start(), CONNECT_TIMEOUT)
    except (KafkaError, TimeoutError, OSError) as error:
        # A client that failed to start holds connections all the same.
        await stop(client)
        raise unavailable(settings, error) from error


async def stop(client: Any) -> None:
    """Close a client in whatever state its broker left it: within a bound, and nothing is raised."""
    # In a task of its own, as aiokafka lets the cancellation of its own tasks out when the broker is away.
    closing = asyncio.ensure_future(client.stop() if hasattr(client, "stop") else client.close())
    for _ in range(round(STOP_TIMEOUT / STOP_LOOK_SECONDS)):
        done, _ = await asyncio.wait({closing}, timeout=STOP_LOOK_SECONDS)
        if done or reconnecting.barred():
            break  # what a producer holds for a broker that has ended is for nobody
    if not done:
        closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    if not done and isinstance(client, AIOKafkaProducer):
        await _give_up(client)


async def _give_up(producer: Any) -> None:
    """End what a cut-off stop of a producer leaves running: it would write what it holds when the broker is back.

    An embedded broker takes that before its topic is made anew, and gives it to nobody, so that the topic has an end
    that no reader comes to.
    """
    sending, held = producer._sender.sender_task, producer._message_accumulator  # noqa: SLF001  aiokafka has no other way
    if sending is not None:
        sending.cancel()
        await asyncio.wait({sending}, timeout=STOP_TIMEOUT)
    # A batch that was sent before and waits to be sent again is missed among these when it fails.
    held._pending_batches.update(batch for batches in held._batches.values() for batch in batches)  # noqa: SLF001
    held.fail_all(KafkaConnectionError("the producer was closed"))
    for batch in held._pending_batches:  # noqa: SLF001  as above
        waited_for = (batch._drain_waiter, *(future for future, _ in batch._msg_futures))  # noqa: SLF001  as above
        for future in waited_for:
            if not future.cancelled():
                future.exception()  # who wrote that has left, or hears of it all the same
    await stop(producer.client)


def unavailable(settings: Settings, error: Exception) -> BrokerUnavailable:
    """The error for a broker that does not answer."""
    reason = str(error) or type(error).__name__
    return BrokerUnavailable(
        f"no Kafka broker answers at {settings.kafka_broker} ({reason}); start it, or name another by --kafka-broker"
    )


async def _refuses(addresses: str) -> bool:
    """Whether nobody listens at any of these addresses."""
    for address in addresses.split(","):
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            continue
        except (OSError, TimeoutError):
            return False
        writer.close()
        return False
    return True


class FetchWait:
    """Adapts a reader's fetch wait to the embedded broker; on Apache Kafka it leaves it alone.

    The embedded broker answers a fetch only when its wait is over, records or not. Measured one-way p50: 134 ms at a
    wait of 500 ms, 3 ms at 10 ms. So it is short while records flow, and longer the longer it has been quiet, for an
    idle process should not keep a laptop busy.
    """

    def __init__(self, now: float, *, holds_fetches: bool) -> None:
        self._busy, self._holds_fetches = now, holds_fetches

    def adapt(self, reader: AIOKafkaConsumer, now: float, *, busy: bool) -> None:
        """Set the wait of the reader's next fetches; `busy`: records have come, or are waited for."""
        if not self._holds_fetches:
            return
        if busy:
            self._busy = now
        quiet = now - self._busy
        wait = SHORT_FETCH_WAIT_MS if quiet < 2 else 100 if quiet < 60 else FETCH_WAIT_MS  # noqa: PLR2004  seconds
        reader._fetcher._fetch_max_wait_ms = wait  # noqa: SLF001  read anew for each fetch


class Topology:
    """Creates topics and tells how many partitions there are. One admin connection, opened by `start`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = AIOKafkaAdminClient(**connection(settings))
        self._known: dict[str, int] = {}
        # What was asked for topics when they were last looked at, and why the broker would not make some.
        self._asked: dict[str, TopicOptions] = {}
        self._told_of_embedded = False
        self._refusals: dict[str, str] = {}
        self._defaults = TopicOptions(
            settings.retention_ms,
            settings.compression,
            # One is what nobody has asked for, and an administrator's topics have more.
            settings.replication_factor if settings.replication_factor > 1 else 0,
        )
        self._lock = asyncio.Lock()
        self.holds_fetches = False
        self.versions: dict[int, tuple[int, int]] = {}
        self._cluster: str | None = None
        # Why the broker did not answer when it was asked last, in words.
        self.fault = ""

    async def start(self) -> None:
        """Connect. `holds_fetches` then says whether the broker answers a fetch only when its wait is over.

        Raises BrokerUnavailable, with what is there instead when it is no broker.
        """
        await probing.probe(self._settings)
        await start(self._admin, self._settings)
        client = self._admin._client  # noqa: SLF001  the only way to what the broker's ApiVersions said
        node = client.get_random_node()
        connection_ = await client._get_conn(node)  # noqa: SLF001  see above
        self.versions = dict(connection_._versions)  # noqa: SLF001  see above
        self.holds_fetches = _CREATE_PARTITIONS not in self.versions
        try:
            self._cluster = await self._cluster_now()
        except (KafkaError, OSError) as error:
            raise unavailable(self._settings, error) from error

    @property
    def admin(self) -> Any:
        """The connection itself, once it is started: for what else a broker can be asked."""
        return self._admin

    @property
    def has_transactions(self) -> bool:
        """Whether the broker can write several records or none; the embedded one only says so."""
        return not self.holds_fetches and all(api in self.versions for api in _TRANSACTIONS)

    async def _cluster_now(self) -> str | None:
        """The id of the cluster that answers; None where brokers name none."""
        answer = await self._admin._send_request(MetadataRequest([]))  # noqa: SLF001  public calls ask for all topics
        return getattr(answer, "cluster_id", None)

    async def watch(self) -> NoReturn:
        """Raise BrokerReplaced when another cluster answers at the address; a broker that is away is waited for.

        But not an embedded one: what it had is gone with it. And it must not be written to when it comes back before
        all topics are made anew, since it takes records for topics that it does not have, and is never the same after.
        """
        address = self._settings.kafka_broker
        while True:
            await asyncio.sleep(CLUSTER_SECONDS)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    now = await self._cluster_now()
            except (KafkaError, OSError, TimeoutError) as error:
                self.fault = str(unavailable(self._settings, error))
                if self.holds_fetches and await _refuses(address):
                    raise BrokerReplaced(f"the embedded broker at {address} has ended, and {_LOST}") from None
                continue
            self.fault = ""
            # A broker that is about to be there may not say yet which cluster it is of.
            if None not in (now, self._cluster) and now != self._cluster:
                raise BrokerReplaced(f"the broker at {address} is cluster {now}, it was {self._cluster}, and {_LOST}")

    async def broker_settings(self) -> dict[str, str]:
        """The settings of one broker; nothing where it does not tell them."""
        if _DESCRIBE_CONFIGS not in self.versions:
            return {}
        node = self._admin._client.get_random_node()  # noqa: SLF001  as above
        try:
            answers = await self._admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, str(node))])
        except (KafkaError, OSError) as error:
            raise unavailable(self._settings, error) from error
        return {
            name: value
            for answer in answers
            for _, _, _, _, entries in answer.resources
            for name, value, *_ in entries
            if value is not None
        }

    async def stop(self) -> None:
        """Close the connection."""
        await stop(self._admin)

    async def ensure(self, names: Iterable[str], options: Mapping[str, TopicOptions] = MappingProxyType({})) -> None:
        """Create the topics that are not there yet, with the namespace's number of partitions.

        options   what is asked for some of them beside, or instead of, what the settings say

        Raises UnequalPartitions when one exists with another number: requests keep their partition number from
        topic to topic, and joins need equal counts. Raises TopicRefused.
        """
        asked = {name: options.get(name, TopicOptions()) | self._defaults for name in names}
        replicas = {name: each.replication_factor for name, each in asked.items() if each.replication_factor}
        await self._create({name: each.configs for name, each in asked.items()}, self._settings.partitions, replicas)

    async def compare(self, names: Iterable[str], options: Mapping[str, TopicOptions]) -> None:
        """Tell which topics, as they stand, are otherwise than `ensure` would make them; once, until it asks for more.

        Raises BrokerUnavailable.
        """
        asked = {name: options.get(name, TopicOptions()) | self._defaults for name in names}
        wanted = {name: each for name, each in asked.items() if each != self._asked.get(name, TopicOptions())}
        if not wanted:
            return
        try:
            found = await self._admin.describe_topics(list(wanted))
            replicas = {
                topic["topic"]: len(topic["partitions"][0]["replicas"]) for topic in found if topic["partitions"]
            }
            configs = await self._configs({name: each.configs for name, each in wanted.items() if each.configs})
        except (KafkaError, OSError) as error:
            raise unavailable(self._settings, error) from error
        self._asked.update(asked)
        for line in differences.told(wanted, replicas, configs):
            log.warning("%s", line)
        if self.holds_fetches and configs and not self._told_of_embedded:
            self._told_of_embedded = True
            log.warning("%s", differences.EMBEDDED)

    async def _configs(self, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
        """The settings that topics have, of those that are wanted; nothing of those whose settings are not told."""
        if not wanted or _DESCRIBE_CONFIGS not in self.versions:
            return {}
        # All of a topic's: asked for some alone, the embedded broker closes the connection.
        answers = await self._admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
        )
        return {
            name: {config: value for config, value, *_ in entries if config in wanted[name]}
            for answer in answers
            for _, _, _, name, entries in answer.resources
        }

    def forget(self, names: Iterable[str]) -> None:
        """Ask the broker for these topics anew when they are needed: somebody may delete them."""
        for name in names:
            self._known.pop(name, None)
            self._asked.pop(name, None)

    async def delete(self, names: Iterable[str]) -> None:
        """Delete topics; those that are not there are passed over. Raises TopicRefused and BrokerUnavailable."""
        wanted = list(names)
        async with self._lock:
            self.forget(wanted)
            try:
                existing = await self.partitions(wanted)
                answer = await self._admin.delete_topics(list(existing)) if existing else None
            except (KafkaError, OSError) as error:
                raise unavailable(self._settings, error) from error
        for name, code, *_ in answer.topic_error_codes if answer is not None else ():
            if code not in (0, UnknownTopicOrPartitionError.errno):
                self._refuse(f"the broker refused to delete topic {name}: {for_code(code).__name__}", code)

    def _refuse(self, text: str, code: int) -> NoReturn:
        raise (TopicRefused if code in _REFUSALS else BrokerUnavailable)(text)

    async def ensure_compacted(self, *names: str) -> None:
        """Create topics of one partition that keep the last record of each key."""
        configs = {"cleanup.policy": "compact", "segment.ms": str(COMPACTED_SEGMENT_MS)}
        await self._create(dict.fromkeys(names, configs), 1)

    async def ensure_changelogs(self, names: Iterable[str]) -> None:
        """Create topics that keep the last record of each key, with the namespace's number of partitions."""
        await self._create({name: {"cleanup.policy": "compact"} for name in names}, self._settings.partitions)

    async def ensure_internal(self, name: str) -> None:
        """Create a topic of one partition whose records matter for minutes only."""
        await self._create({name: {"retention.ms": str(REPLIES_RETENTION_MS)}}, 1)

    async def ensure_replies(self, name: str) -> None:
        """Create the topic of answers to waiting callers, kept for minutes."""
        await self._create({name: {"retention.ms": str(REPLIES_RETENTION_MS)}}, self._settings.partitions)

    async def names(self) -> set[str]:
        """The topics that exist. Raises BrokerUnavailable."""
        try:
            return set(await self._admin.list_topics())
        except KafkaError as error:
            raise unavailable(self._settings, error) from error

    async def partitions(self, names: Iterable[str]) -> dict[str, int]:
        """The number of partitions of those topics that exist.

        Asking for a topic by name may create it (the embedded broker always does), so only the listed are asked for.
        """
        listed = set(await self._admin.list_topics())
        existing = [name for name in names if name in listed]
        found = await self._admin.describe_topics(existing) if existing else []
        return {topic["topic"]: len(topic["partitions"]) for topic in found if not topic["error_code"]}

    async def faults(self, names: Iterable[str]) -> dict[str, str]:
        """What is wrong by now with topics that were there once, in words; `ensure` then makes them again.

        Raises BrokerUnavailable.
        """
        wanted = list(names)
        try:
            found = await self.partitions(wanted)
        except (KafkaError, OSError) as error:
            raise unavailable(self._settings, error) from error
        count = self._settings.partitions
        gone = "topic {} is gone; create it with {} partitions, or unload and load this"
        faults = {name: self._refusals.get(name, gone.format(name, count)) for name in wanted if name not in found}
        faults.update((name, self._unequal(name, found[name])) for name in wanted if found.get(name, count) != count)
        for name in faults:
            self._known.pop(name, None)
        return faults

    def _unequal(self, name: str, count: int) -> str:
        return (
            f"topic {name} has {count} partitions and the namespace {self._settings.partitions}; "
            f"set --partitions {count}, or delete the topic"
        )

    async def _create(
        self,
        wanted: Mapping[str, Mapping[str, str]],
        partitions: int,
        replicas: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        if all(name in self._known for name in wanted):
            return
        async with self._lock:
            missing = {name: configs for name, configs in wanted.items() if name not in self._known}
            if not missing:
                return
            try:
                existing = await self.partitions(missing)
                absent = {name: configs for name, configs in missing.items() if name not in existing}
                await self._create_missing(absent, partitions, replicas)
            except (KafkaError, OSError) as error:
                raise unavailable(self._settings, error) from error
            for name, count in existing.items():
                if count != partitions:
                    raise UnequalPartitions(self._unequal(name, count))
            self._known.update(dict.fromkeys(missing, partitions))

    async def _create_missing(
        self, missing: Mapping[str, Mapping[str, str]], partitions: int, replicas: Mapping[str, int]
    ) -> None:
        if not missing:
            return
        largest = str(self._settings.max_message_bytes + OVERHEAD_BYTES)
        topics = [
            NewTopic(
                name=name,
                num_partitions=partitions,
                replication_factor=replicas.get(name, self._settings.replication_factor),
                topic_configs={"max.message.bytes": largest, **configs},
            )
            for name, configs in missing.items()
        ]
        answer = await self._admin.create_topics(topics)
        for name, code, *message in answer.topic_errors:
            self._refusals.pop(name, None)
            if code in (0, TopicAlreadyExistsError.errno):
                continue
            reason = next(filter(None, message), for_code(code).__name__)
            self._refusals[name] = f"the broker refused to create topic {name}: {reason}"
        for name, code, *_ in answer.topic_errors:
            if name in self._refusals:
                self._refuse(self._refusals[name], code)
