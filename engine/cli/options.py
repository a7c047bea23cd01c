"""Flags that several commands share, and Settings from them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from engine.cli import configs, files
from engine.errors import InvalidSettings
from engine.settings import GUARANTEES
from engine.settings import load as load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.settings import Settings

# Where a broker is looked for when none is named: where `seldon up` starts the embedded one.
DEFAULT_BROKER = "127.0.0.1:9092"

# The reference's; calling it reaches this machine.
DEFAULT_HOST = "0.0.0.0:9000"


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several flags as one decorator."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class Path(click.Path):
    """A path that is not empty: an empty one, of a variable that is not set, would be the folder that we are in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's, but for the empty path, which is a usage error."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class Amount(click.ParamType):
    """A number from the one to the other, and neither infinite nor none, as `nan` is."""

    name = "float"

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As said; all else is a usage error."""
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not self._least <= number <= self._most:
            self.fail(f"{value} is no number from {self._least:,g} to {self._most:,.0f}", param, ctx)
        return number


kafka = together(
    click.option("--kafka-broker", metavar="HOST:PORT", help="The Kafka broker."),
    click.option("--namespace", metavar="NS", help="The namespace: part of every topic's name. [default: default]"),
    click.option("--topic-prefix", metavar="P", help="What topics' names begin with. [default: seldon]"),
    click.option(
        "--kafka-config-path",
        type=click.Path(),
        envvar="SELDON_KAFKA_CONFIG_PATH",
        metavar="FILE",
        help="JSON with the broker, TLS and SASL: kafka.json.",
    ),
)

topics = together(
    click.option("--partitions", type=int, metavar="N", help="Partitions of each topic. [default: 8]"),
    click.option("--replication-factor", type=int, metavar="N", help="Replicas of topics we create. [default: 1]"),
)

serving = together(
    click.option("--request-timeout", type=float, metavar="SECONDS", help="A caller waits at most. [default: 30]"),
    click.option(
        "--processing-guarantee", type=click.Choice(GUARANTEES), help="[default: the best that the broker holds]"
    ),
)

listen = click.option("--listen", metavar="HOST:PORT", help="Where REST and gRPC are served. [default: 127.0.0.1:9000]")
ui_listen = click.option("--ui-listen", metavar="HOST:PORT", help="Where the page is served. [default: nowhere]")


def default_host() -> str:
    """The gateway that is called when a command names none: of the active config, then of the environment."""
    return configs.active().infer_host or os.environ.get("SELDON_INFER_HOST") or DEFAULT_HOST


inference_host = click.option(
    "--inference-host",
    # Not by click's `envvar`, which would have the environment win over the active config.
    default=default_host,
    show_default=DEFAULT_HOST,
    metavar="HOST:PORT",
    help="The gateway.",
)
authority = click.option("--authority", default="", metavar="NAME", help="Send this as the host's name.")

calling = together(
    inference_host,
    click.option(
        "--inference-mode", type=click.Choice(("rest", "grpc")), default="rest", show_default=True, help="By what."
    ),
    authority,
)

# The reference's flags that have nothing to do here: its scheduler is not needed, Kafka is the control plane.
accepted = together(
    click.option("--scheduler-host", hidden=True, expose_value=False, help="Accepted, without effect."),
    click.option("--authority", hidden=True, expose_value=False, help="Accepted, without effect."),
    click.option("--force", is_flag=True, hidden=True, expose_value=False, help="Accepted: we always act."),
    click.option(
        "-r", "--show-request", is_flag=True, hidden=True, expose_value=False, help="Accepted, without effect."
    ),
    click.option("-v", "--verbose", is_flag=True, hidden=True, expose_value=False, help="Accepted, without effect."),
)


def settings(flags: dict[str, Any], *, default_broker: bool = False) -> Settings:
    """Settings from a command's flags, the active config, the environment and a `kafka.json`, the first that says it.

    With `default_broker`, that is for what needs a broker that is there: it alone heeds the active config, and where
    nothing names a broker, that is looked for on this machine.
    """
    given = {name: value for name, value in flags.items() if name != "kafka_config_path" and value is not None}
    if given.get("kafka_broker") == "":
        # A variable that is not set: the embedded broker, or the one at the default address, is not what was meant.
        raise InvalidSettings("--kafka-broker is empty; give HOST:PORT, or leave the flag out")
    said: dict[str, Any] = {"kafka_broker": DEFAULT_BROKER} if default_broker else {}
    if path := flags.get("kafka_config_path"):
        said |= files.kafka(path)
    config = configs.active().settings if default_broker else {}
    return load_settings({**config, **given}, files=said)
