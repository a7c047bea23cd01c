"""What is said while somebody waits, and how a wait ends."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, cast

import pytest
from rich.console import Console

from engine.cli import waiting
from engine.cli.waiting import Progress
from engine.errors import EngineError
from engine.kafka.view import CREATING, FAILED, GATEWAY, READY, WORKER, Instance, Loaded, State, View
from engine.resources import documents, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.kafka.registry import Registry

KEY = ("model", "iris")
OFFSET = 3


class FakeRegistry:
    """Marked as such: a view to which something happens each time that somebody waits for news."""

    def __init__(self, *happens: Callable[[View], None]) -> None:
        text = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {name: iris}\nspec: {storageUri: a}\n"
        resource, _ = parse(documents(text, "r.yaml")[0][0])
        assert resource is not None
        self.view = View({KEY: Loaded(KEY, resource, 1, "", OFFSET)}, seen=OFFSET)
        self._happens = list(happens)

    async def wait(self, seconds: float) -> None:
        if self._happens:
            self._happens.pop(0)(self.view)
        else:
            await asyncio.sleep(seconds)


def lives(name: str, part: str, seen: int = OFFSET) -> Callable[[View], None]:
    def happens(view: View) -> None:
        view.instances[name] = Instance(name, 4e9, (part,), seen)

    return happens


def says(name: str, state: str, reason: str = "") -> Callable[[View], None]:
    def happens(view: View) -> None:
        view.states.setdefault(KEY, {})[name] = State(KEY, name, 1, state, reason, 0.0, None, OFFSET)

    return happens


def loaded(*happens: Callable[[View], None], seconds: float = 20.0) -> None:
    registry = cast("Registry", FakeRegistry(*happens))
    asyncio.run(waiting.loaded(registry, [KEY], seconds))


def test_a_load_is_waited_for_until_every_worker_and_gateway_has_taken_it_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded(
        lives("w1", WORKER),
        says("w1", CREATING, "loading"),
        lives("g", GATEWAY, seen=OFFSET - 1),
        says("w1", READY),
        lives("w2", WORKER),
        lives("g", GATEWAY),
        says("w2", READY),
    )
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "waiting for model iris: no worker has taken it up",
        "waiting for model iris: loading",
        "waiting for model iris: gateway g cannot route to it yet",
        "waiting for model iris: instance w2 has not come to an end with it",
    ]


def test_a_load_that_fails_ends_the_wait_at_once_with_the_reason() -> None:
    with pytest.raises(EngineError, match=r"^model iris has failed: no such file$"):
        loaded(lives("w1", WORKER), says("w1", FAILED, "no such file"))


def test_a_wait_that_is_too_long_ends_with_what_it_waited_for() -> None:
    with pytest.raises(EngineError, match=r"^not within 0\.05 s: model iris: no worker has taken it up$"):
        loaded(seconds=0.05)


def test_an_unload_is_waited_for_until_everybody_has_let_it_go(capsys: pytest.CaptureFixture[str]) -> None:
    registry = FakeRegistry(
        lives("g", GATEWAY, seen=OFFSET + 1),
        lambda view: view.states.clear(),
        lives("w", WORKER, seen=OFFSET + 1),
    )
    for happens in (lives("w", WORKER), says("w", READY), lives("g", GATEWAY)):
        happens(registry.view)
    registry.view.resource_record(b"model.iris", None, OFFSET + 1)
    asyncio.run(waiting.unloaded(cast("Registry", registry), [KEY], 20.0))
    assert capsys.readouterr().err.splitlines() == [
        "waiting for model iris: 2 instances have not let it go yet",
        "waiting for model iris: instance w has not let it go yet",
    ]


def terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Console:
    """A terminal that keeps what is written to it."""
    console = Console(
        stderr=True, highlight=False, force_terminal=True, width=60, _environ={"TERM": "xterm-256color", **environment}
    )
    console.file = io.StringIO()
    monkeypatch.setattr(waiting, "Console", lambda **_: console)
    return console


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["colours", "none"])
def test_on_a_terminal_one_line_changes_and_gives_no_orders(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *, coloured: bool
) -> None:
    console = terminal(monkeypatch, **environment)
    with Progress() as progress:
        progress.say("waiting for [red]iris[/red]: \x1b[2J")
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "waiting for [red]iris[/red]: \\x1b[2J" in written
    assert "\x1b[2J" not in written
    assert ("\x1b[32m" in written) is coloured
