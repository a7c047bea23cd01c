"""Waiting for what was loaded or unloaded, and saying meanwhile what is waited for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console
from rich.text import Text

from engine.cli import printing
from engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.kafka.registry import Registry
    from engine.kafka.view import Key, View

# Without news it is looked again so often: what lives may die.
_LOOK_SECONDS = 1.0


def flags(function: Any) -> Any:
    """The flags of what loads and unloads."""
    seconds = click.option(
        "-t", "--timeout-secs", default=60.0, type=float, help="With -w: how long to wait. [default: 60]"
    )
    wait = click.option(
        "-w",
        "--wait",
        is_flag=True,
        help="Wait until all workers and gateways have taken it up, and fail if one cannot.",
    )
    return wait(seconds(function))


class Progress:
    """What is being waited for, on stderr: a line that changes on a terminal, a plain line for each change elsewhere.

    Colours go by `NO_COLOR`.
    """

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._status = console.status("") if console.is_terminal else None
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """What is waited for now."""
        if text == self._said:
            return
        self._said = text
        if self._status is None:
            click.echo(printing.plain(text), err=True)
        else:
            self._status.update(Text(printing.plain(text)))
            self._status.start()


async def loaded(registry: Registry, keys: Sequence[Key], seconds: float) -> None:
    """Wait until every living worker and gateway has come to an end with these resources.

    Raises EngineError with the reasons of all that are not ready then, or by that time.
    """
    await _until(registry, keys, seconds, _still_coming)
    view = registry.view
    failed = [
        (key, state.reason) for key in keys if (state := view.state(key, time.time())) and state.state == "failed"
    ]
    if failed:
        raise EngineError("; ".join(f"{kind} {name} has failed: {reason}" for (kind, name), reason in failed))


async def unloaded(registry: Registry, keys: Sequence[Key], seconds: float) -> None:
    """Wait until no living worker runs these resources and no gateway routes to them. Raises EngineError."""
    await _until(registry, keys, seconds, _still_there)


async def _until(
    registry: Registry, keys: Sequence[Key], seconds: float, reason_of: Callable[[View, Key, float], str]
) -> None:
    """Wait until there is no reason any more to wait for any of these."""
    until = time.monotonic() + seconds
    with Progress() as progress:
        while True:
            now = time.time()
            waiting = [f"{key[0]} {key[1]}: {reason}" for key in keys if (reason := reason_of(registry.view, key, now))]
            if not waiting:
                return
            if time.monotonic() > until:
                raise EngineError(f"not within {seconds:g} s: {'; '.join(waiting)}")
            more = f", and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            progress.say(f"waiting for {waiting[0]}{more}")
            await registry.wait(min(_LOOK_SECONDS, max(until - time.monotonic(), 0.01)))


def _still_coming(view: View, key: Key, now: float) -> str:
    if key not in view.resources:
        return ""  # somebody has unloaded it since
    state = view.state(key, now)
    if state is None:
        return view.silence(now)
    pending = view.pending(key, now)
    if state.state == "creating":
        return state.reason
    return f"{_instances(pending)} not come to an end with it" if pending else ""


def _still_there(view: View, key: Key, now: float) -> str:
    pending = view.pending(key, now) if key not in view.resources else []
    return f"{_instances(pending)} not let it go yet" if pending else ""


def _instances(names: Sequence[str]) -> str:
    return f"instance {names[0]} has" if len(names) == 1 else f"{len(names)} instances have"
