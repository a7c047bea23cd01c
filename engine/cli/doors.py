"""The gateway's two protocols as `infer` calls them: what is called, and what comes back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import click

from engine.cli.printing import plain
from engine.errors import EngineError

Pairs = list[tuple[str, str]]

# The gateway ends every call by its own deadline; this only ends a call to something that is no gateway.
ANSWER_SECONDS = 600.0

_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")
# What both HTTP/1 and gRPC can carry.
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of one call: its headers, and the answer's text or the error with its code.

    text      the answer as it is printed
    code      0 for an answer; otherwise the HTTP status, or the number of the gRPC status
    """

    headers: Pairs
    trailers: Pairs
    text: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """What a command line asks to be called. Raises UsageError for what no header can carry.

    route       the value of the header `seldon-model`
    authority   what is sent as the host's name; empty: the host itself
    """

    name: str
    route: str
    host: str
    authority: str
    data: bytes

    def __post_init__(self) -> None:
        if not self.name:
            raise click.UsageError("NAME is empty: name a model or a pipeline that is loaded")
        for text in (self.name, self.authority):
            if not _HEADER_VALUE.fullmatch(text):
                raise click.UsageError(f"{text!a} cannot be sent in a header; write printable ASCII")


class Door(Protocol):
    """One of the gateway's two protocols; calls use one connection."""

    def call(self, headers: Pairs) -> Reply:
        """Send the request with these headers beside its own."""

    def sent(self, headers: Pairs) -> list[str]:
        """The lines that --show-headers prints of the request."""

    def received(self, reply: Reply) -> list[str]:
        """The lines that --show-headers prints of an answer."""

    def request(self) -> str:
        """The request as --show-request prints it."""

    def close(self) -> None:
        """Close the connection."""


def header(text: str) -> tuple[str, str]:
    """The two parts of a --header. Raises UsageError."""
    name, _, value = text.partition("=")
    if text.count("=") != 1 or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise click.UsageError(f"Badly formed header {plain(text)}: use key=val")
    if name.lower() == "host":
        raise click.UsageError("Setting Host via headers is not supported, please use '--authority' instead")
    return name, value


def header_lines(mark: str, pairs: Pairs) -> list[str]:
    """`> Name:[v1 v2]`, a line for each name."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return [f"{mark} {name}:[{' '.join(values)}]" for name, values in found.items()]


def no_gateway(host: str, reason: str | None) -> EngineError:
    """Nobody answers at the host."""
    return EngineError(
        f"no gateway answers at {host} ({reason or 'no reason given'}); "
        "start it by `seldon up`, or name another by --inference-host"
    )
