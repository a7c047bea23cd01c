"""`seldon worker --processes N`: workers side by side on one machine, each a process of its own, kept alive by one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from engine.kafka.broker import die_with_parent
from engine.settings import host_and_port

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence

# A worker that died is started again after the first of these, and after the next one each time that it dies again
# before it was ready.
RESTART_WAITS = (0.5, 2.0, 10.0)

# A worker drains for ten seconds; one that takes longer than this hangs.
STOP_SECONDS = 25.0

# What a worker says when it has joined its groups.
_READY = b"ready in"

# How much of what a worker says is looked at at once, and the longest line that is kept whole.
_CHUNK = 65536

_METRICS = "SELDON_METRICS_LISTEN"

_MAIN = "from engine.cli import main; main(prog_name='seldon')"


def command(paths: Sequence[str], flags: Mapping[str, Any]) -> list[str]:
    """The command of one worker with these paths and flags."""
    given = {name.replace("_", "-"): value for name, value in flags.items() if value is not None}
    return [
        *(sys.executable, "-c", _MAIN, "worker", *paths),
        *(word for name, value in given.items() for word in (f"--{name}", str(value))),
    ]


def run(worker: Sequence[str], count: int) -> None:
    """Run so many workers until a signal comes. One that dies is started again; one that cannot start ends all.

    Raises SystemExit with the status of a worker that could not start.
    """
    status = asyncio.run(_Fleet(worker, count).run())
    if status:
        raise SystemExit(status)


class _Fleet:
    """Workers that are kept alive."""

    def __init__(self, worker: Sequence[str], count: int) -> None:
        self._worker, self._count = worker, count
        self._stop = asyncio.Event()
        self._status = 0
        self._running: set[Process] = set()

    async def run(self) -> int:
        """Until a signal comes, or a worker cannot start: its exit status."""
        loop = asyncio.get_running_loop()
        for asked in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(asked, self._asked_to_stop)
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._count + 1):
                group.create_task(self._keep(number))
        return self._status

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            # Asked twice: whoever asks does not want to wait for the drain.
            for process in self._running:
                process.kill()
            os._exit(130)
        self._stop.set()

    async def _keep(self, number: int) -> None:
        """One place of the fleet: a worker, and the next one when it has died."""
        ever_ready, died = False, 0
        while not self._stop.is_set():
            ready, code = await self._live(number)
            if self._stop.is_set():
                return
            if code > 0 and not (ready or ever_ready):
                # It has said why; the others would say the same.
                self._status = code
                self._stop.set()
                return
            ever_ready, died = ever_ready or ready, 0 if ready else died + 1
            wait = RESTART_WAITS[min(died, len(RESTART_WAITS) - 1)]
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            click.echo(f"worker {number} {how}; starting it again in {wait:g} s", err=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    async def _live(self, number: int) -> tuple[bool, int]:
        """One worker from its start to its end: whether it was ready once, and its exit status."""
        process = await asyncio.create_subprocess_exec(
            *die_with_parent(self._worker),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(os.environ, number),
            # Ctrl-C reaches it by us and not by the terminal, which would ask it twice.
            start_new_session=True,
        )
        self._running.add(process)
        ending = asyncio.create_task(self._end_when_asked(process))
        try:
            ready, _ = await asyncio.gather(
                _pass_on(process.stdout, number, err=False), _pass_on(process.stderr, number, err=True)
            )
            return ready, await process.wait()
        finally:
            ending.cancel()
            self._running.discard(process)

    async def _end_when_asked(self, process: Process) -> None:
        await self._stop.wait()
        process.terminate()
        await asyncio.sleep(STOP_SECONDS)
        process.kill()


def _environment(inherited: Mapping[str, str], number: int) -> dict[str, str]:
    """What a worker inherits: each shows its figures on a port of its own, from the one that was asked for on."""
    listen = inherited.get(_METRICS, "")
    if not listen:
        return dict(inherited)
    _, port = host_and_port(listen, _METRICS)
    host = listen.rpartition(":")[0]
    return {**inherited, _METRICS: f"{host}:{port + number - 1 if port else 0}"}


async def _pass_on(said: asyncio.StreamReader | None, number: int, *, err: bool) -> bool:
    """Print what a worker says, each line with its number; whether it said that it is ready."""
    assert said is not None
    ready, rest = False, b""
    # Not line by line: a model may print one that is longer than any stream's limit.
    while chunk := await said.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _CHUNK:
            lines, rest = [*lines, rest], b""
        for line in lines:
            ready = ready or _READY in line
            click.echo(b"%d| %b" % (number, line), err=err)
    if rest:
        click.echo(b"%d| %b" % (number, rest), err=err)
    return ready
