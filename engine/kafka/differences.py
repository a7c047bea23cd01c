"""How topics that exist differ from what is asked for, in words. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.resources import TopicOptions

EMBEDDED = (
    "the embedded broker takes retention.ms and compression.type and heeds neither: it keeps all records, as they "
    "came, until it ends; use Apache Kafka for more than a trial"
)

# So many topics are named in a line; a namespace has hundreds, and they mostly differ in the same way.
_NAMED = 3


def told(
    asked: Mapping[str, TopicOptions], replicas: Mapping[str, int], configs: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """A line for each way in which some topics are otherwise.

    replicas, configs   what the topics have; of topics and settings that are not in them, nothing is known
    """
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for topic, options in sorted(asked.items()):
        wanted = {**options.configs, "replication.factor": str(options.replication_factor or "")}
        have = {**configs.get(topic, {}), **({"replication.factor": str(replicas[topic])} if topic in replicas else {})}
        for name, value in wanted.items():
            if value and have.get(name, value) != value:
                found[name, have[name], value].append(topic)
    for (name, has, value), topics in found.items():
        tool = "kafka-reassign-partitions.sh" if name == "replication.factor" else "kafka-configs.sh"
        yield (
            f"{_listed(topics)} {'has' if len(topics) == 1 else 'have'} {name}={has}, and {value} is asked for; what "
            f"exists is left as it is: change it by {tool}, or delete it to have it made anew"
        )


def _listed(topics: list[str]) -> str:
    if len(topics) == 1:
        return f"topic {topics[0]}"
    more = f" and {len(topics) - _NAMED} more" if len(topics) > _NAMED else ""
    return f"topics {', '.join(topics[:_NAMED])}{more}"
