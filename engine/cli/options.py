"""Flags that several commands share, and Settings from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from engine.settings import GUARANTEES
from engine.settings import load as load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.settings import Settings

# Where a broker is looked for when none is named: where `seldon up` starts the embedded one.
DEFAULT_BROKER = "127.0.0.1:9092"


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


kafka = _together(
    click.option("--kafka-broker", metavar="HOST:PORT", help="The Kafka broker."),
    click.option("--namespace", metavar="NS", help="The namespace: part of every topic's name. [default: default]"),
    click.option("--topic-prefix", metavar="P", help="What topics' names begin with. [default: seldon]"),
)

topics = _together(
    click.option("--partitions", type=int, metavar="N", help="Partitions of each topic. [default: 8]"),
    click.option("--replication-factor", type=int, metavar="N", help="Replicas of topics we create. [default: 1]"),
)

serving = _together(
    click.option("--request-timeout", type=float, metavar="SECONDS", help="A caller waits at most. [default: 30]"),
    click.option(
        "--processing-guarantee", type=click.Choice(GUARANTEES), help="[default: the best that the broker holds]"
    ),
)

listen = click.option("--listen", metavar="HOST:PORT", help="Where REST and gRPC are served. [default: 127.0.0.1:9000]")

# The reference's flags that have nothing to do here: its scheduler is not needed, Kafka is the control plane.
accepted = _together(
    click.option("--scheduler-host", hidden=True, expose_value=False, help="Accepted, without effect."),
    click.option("--authority", hidden=True, expose_value=False, help="Accepted, without effect."),
    click.option("--force", is_flag=True, hidden=True, expose_value=False, help="Accepted: we always act."),
    click.option("-v", "--verbose", is_flag=True, hidden=True, expose_value=False, help="Accepted, without effect."),
)


def settings(flags: dict[str, Any], *, default_broker: bool = False) -> Settings:
    """Settings from a command's flags; a client of a broker that is named nowhere looks on this machine."""
    found = load_settings(flags)
    if default_broker and not found.kafka_broker:
        found = load_settings({**flags, "kafka_broker": DEFAULT_BROKER})
    return found
