"""`seldon up`, `seldon worker`, `seldon gateway`: run the product, say what it waits for, stop it on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import platform
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from engine import __version__
from engine.cli import options
from engine.cli.standing import Standing
from engine.cli.status_line import StatusLine
from engine.errors import BrokerReplaced, BrokerUnavailable, UnequalPartitions
from engine.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.app import Process
    from engine.settings import Settings
    from engine.watching import Watch

log = logging.getLogger(__name__)

# How long a broker that was replaced is left alone before all begins anew with it, and each time that it is away.
RETRY_SECONDS = 0.5

# How often what refers to itself is looked for, and which share of the time that may take at most.
COLLECT_SECONDS = 60.0
COLLECT_SHARE = 0.001

# How often it is looked for among what is new, and from how many new objects on.
YOUNG_SECONDS, LONGEST_YOUNG_SECONDS = 0.5, 16.0
YOUNG_OBJECTS = 30_000

# As glibc's malloc.h numbers what can be set: how many heaps there may be, and from which size on memory is the
# system's own, given back as soon as it is free.
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
_LARGE_BYTES = 1 << 20

# A thread of a model that was unloaded ends at once, unless its call hangs.
HANGING_SECONDS = 1.0


@click.command()
@click.argument("paths", nargs=-1, required=True, type=options.Path(), metavar="PATH...")
@options.listen
@options.ui_listen
@click.option("--kafka-listen", metavar="HOST:PORT", help="The embedded broker's address. [default: 127.0.0.1:9092]")
@options.kafka
@options.topics
@options.serving
def up(paths: tuple[str, ...], **flags: Any) -> None:
    """Run everything in one process: broker, models, pipelines, gateway.

    PATH is a YAML file or a folder of them. Without --kafka-broker a broker is started here, in memory.

    \b
    Example:
      seldon up pipelines/
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    _serve(paths, flags, broker=True, worker=True, gateway=True)


@click.command()
@click.argument("paths", nargs=-1, type=options.Path(), metavar="[PATH]...")
@options.kafka
@options.topics
@options.serving
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Workers side by side.")
def worker(paths: tuple[str, ...], processes: int, **flags: Any) -> None:
    """Run models and pipelines against a broker; start more of them to share the work.

    \b
    Example:
      seldon worker pipelines/ --kafka-broker localhost:9092
      seldon worker pipelines/ --kafka-broker localhost:9092 --processes 4
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    if processes > 1:
        # Slow to import, and of no use to the other commands.
        from engine.cli import fleet

        fleet.run(fleet.command(paths, flags), processes)
    else:
        _serve(paths, flags, broker=False, worker=True, gateway=False)


@click.command()
@click.argument("paths", nargs=-1, type=options.Path(), metavar="[PATH]...")
@options.listen
@options.ui_listen
@options.kafka
@options.topics
@options.serving
def gateway(paths: tuple[str, ...], **flags: Any) -> None:
    """Serve REST and gRPC on one port for what workers run.

    \b
    Example:
      seldon gateway --listen 0.0.0.0:9000 --kafka-broker localhost:9092
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    _serve(paths, flags, broker=False, worker=False, gateway=True)


def _serve(paths: tuple[str, ...], flags: dict[str, Any], *, broker: bool, worker: bool, gateway: bool) -> None:
    since = time.monotonic()
    _keep_heap_small()
    # Slow to import, and of no use to the other commands.
    import uvloop

    from engine import app
    from engine.watching import Watch

    settings = options.settings(flags, default_broker=not broker)
    watch = Watch(paths, lambda line: click.echo(line, err=True), alone=broker and not settings.kafka_broker)
    logs.begin(settings.log_level.upper(), settings.log_format)
    parts = app.Parts(broker=broker, worker=worker, gateway=gateway)
    with StatusLine() as line:
        standing = Standing(line)

        def make(settings: Settings) -> Process:
            return app.Process(settings, parts, watch.named, standing.waits)

        uvloop.run(_run(make, watch, settings, since, standing))
    _leave_hanging_models()


def _leave_hanging_models() -> None:
    """Python waits at its end for every thread, and a model's call that hangs would keep the process for ever."""
    from engine.runtimes.inprocess import THREADS_PREFIX

    for thread in threading.enumerate():
        if thread.name.startswith(THREADS_PREFIX):
            thread.join(HANGING_SECONDS)
            if thread.is_alive():
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)


async def _run(
    make: Callable[[Settings], Process], watch: Watch, settings: Settings, since: float, standing: Standing
) -> None:
    """Run until a signal comes; a broker that came back as another one, with nothing in it, is begun with anew."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.faulty_task)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, stop)
    aside = [asyncio.create_task(_collect()), asyncio.create_task(standing.keep())]
    try:
        await _run_through(stop, make, watch, settings, since, standing)
    finally:
        for task in aside:
            task.cancel()


async def _run_through(
    stop: asyncio.Event,
    make: Callable[[Settings], Process],
    watch: Watch,
    settings: Settings,
    since: float,
    standing: Standing,
) -> None:
    anew = False
    while not stop.is_set():
        process = make(settings)
        try:
            await _run_until(stop, process, watch, since, standing)
        except BrokerReplaced as error:
            log.warning("beginning anew: %s", error)
            anew = True
            # Where port 0 was asked for, callers know the one that it became.
            settings = replace(settings, listen=process.listening, ui_listen=process.showing)
        except BrokerUnavailable as error:
            if not anew or isinstance(error, UnequalPartitions):
                raise
            log.warning("trying again: %s", error)
        else:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
        since = time.monotonic()


async def _run_until(stop: asyncio.Event, process: Process, watch: Watch, since: float, standing: Standing) -> None:
    from engine import app

    starting = asyncio.create_task(_start(process, watch, since, standing))
    stopping = asyncio.create_task(stop.wait())
    ended = None
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            ended = asyncio.create_task(app.first_end(process.ended(), watch.ended()))
            await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        standing.waits("finishing what is in flight")
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        if ended is not None and not ended.done():
            ended.cancel()
        await watch.stop()
        await process.stop()
    if ended is not None and ended.done() and not ended.cancelled():
        await ended


def _stop(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(130)  # asked twice: whoever asks does not want to wait for the drain
    stop.set()


async def _start(process: Process, watch: Watch, since: float, standing: Standing) -> None:
    from engine import app

    await process.start()
    watch.start(process.registry, process.supervisor)
    if process.supervisor is not None:
        await process.ready()
    _relax_collector()
    standing.runs(process.figures)
    for line in _banner(process, time.monotonic() - since):
        click.echo(line)
    failed = app.failed(process.registry.view, process.named.resources, time.time()) if process.supervisor else []
    for (kind, name), reason in failed:
        click.echo(f"not ready: {kind} {name}: {reason}", err=True)


def _keep_heap_small() -> None:
    """Have all threads share one heap of the C library, and no large buffers in it.

    What one thread allocates another one frees, and with the first large buffer that is freed glibc takes all that are
    smaller from the heap, too: bursts leave holes then, and a worker under load with a fault each minute grew by 7 MB
    in twenty minutes though it used no more than before. So it stays as it is. From 128 KB on instead of 1 MB, calls
    with tensors of 256 KB cost two to five times the CPU; from 1 MB on a REST call with 1.3 MB of JSON cost 3 ms more
    than without a bound, which `large_json` has won back. Python's own lock keeps the threads apart anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Only glibc has both; musl, for one, has a single heap to begin with.
    if mallopt is not None and platform.libc_ver()[0] == "glibc":
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _relax_collector() -> None:
    """What is loaded lives as long as the process, and requests are freed by their counts, not by the collector.

    With Python's own thresholds the collector walks all requests in flight again and again: 59 to 70 µs of CPU per
    request of a two-step chain, against 48 to 63 with a first one of 100,000. One poll of 4,000 such requests makes
    more objects than that, which all live until they are written: from 40 to 45 it became 34 to 43 with a million.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 1000)


async def _collect() -> None:
    """Free what refers to itself: with the relaxed thresholds a million such objects, some 200 MB, would gather first.

    grpcio leaves five of them for each call, with 2 KB. They are looked for among what is new where there is enough of
    it, and less often where they were few: then what is new are requests in flight, and to look through those twice a
    second takes a third more CPU. What was there at the start is frozen and not looked at: 1 to 4 ms with all samples.
    """
    due, pause = time.perf_counter() + COLLECT_SECONDS, YOUNG_SECONDS
    while True:
        await asyncio.sleep(pause)
        since = time.perf_counter()
        if since > due:
            gc.collect()
            taken = time.perf_counter() - since
            due = since + max(COLLECT_SECONDS, taken / COLLECT_SHARE)
        elif (young := gc.get_count()[0]) > YOUNG_OBJECTS:
            pause = YOUNG_SECONDS if gc.collect(0) > young / 4 else min(2 * pause, LONGEST_YOUNG_SECONDS)
        else:
            pause = YOUNG_SECONDS


def _banner(process: Process, seconds: float) -> list[str]:
    from engine import app

    settings = process.settings
    lines = [f"millrace {__version__}: {app.summary(process.named)}, namespace {settings.namespace}"]
    if process.gateway is not None:
        host, port = process.gateway.address
        lines.append(f"  gateway  {host}:{port}, REST and gRPC")
    if process.page is not None:
        lines.append(f"  page     {process.page.url}")
    if process.broker is not None:
        lines.append(f"  broker   {settings.kafka_broker}, embedded: its data is in memory and goes with this process")
    else:
        lines.append(f"  broker   {settings.kafka_broker}")
    kept = f", {settings.processing_guarantee}" if process.parts.worker else ""
    lines.append(f"  ready in {seconds:.1f} s{kept}; Ctrl-C stops")
    return lines
