"""What `seldon` takes before anybody calls it: to start, in memory, and of the processor when many pipelines wait."""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import ROOT
from bench.calls import body
from bench.chain import PIPELINE
from bench.processes import READY, SELDON, Process, wait_until
from bench.works import Layout, many_pipelines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.broker import Bench

EMBEDDED = ("--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0")
CALL_SECONDS = 30.0

# What starting has left behind is over by then.
SETTLE_SECONDS = 3.0
JOIN_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Startup:
    """On the embedded broker: seconds to the banner of each start, and the median of calls one after the other."""

    seconds: tuple[float, ...]
    calls: int
    median_ms: float


@dataclass(frozen=True, slots=True)
class Small:
    """`seldon up` of some pipelines on the embedded broker, without the extras.

    seconds     to the banner, of each start
    rss_mb      of its process when it waits for calls, of each start
    broker_mb   the same with the broker's process
    """

    pipelines: int
    seconds: tuple[float, ...]
    rss_mb: tuple[float, ...]
    broker_mb: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Idle:
    """`seldon worker` of many pipelines on Kafka, when no request comes: its share of one core, its threads, memory."""

    pipelines: int
    partitions: int
    watched_seconds: float
    share: float
    threads: int
    rss_mb: float


def measure_startup(starts: int, calls: int) -> Startup:
    """`seldon up pipelines/` on the embedded broker, some times; then tfsimples by REST, one call after the other."""
    seconds: list[float] = []
    taken: list[float] = []
    for number in range(starts):
        with Process([SELDON, "up", "pipelines/", *EMBEDDED]) as process:
            gateway, _ = process.wait_for(READY)
            seconds.append(time.perf_counter() - process.started)
            if number == starts - 1:
                taken = _one_by_one(gateway[1], int(gateway[2]), calls)
            if said := process.errors().strip():
                raise RuntimeError(f"seldon up is not well:\n{said}")
    return Startup(tuple(seconds), calls, statistics.median(taken) * 1e3)


def measure_small(pipelines: int, starts: int) -> Small:
    """Some pipelines on the embedded broker, as where only the core is installed."""
    seconds, alone, whole = [], [], []
    with _resources(pipelines) as folder:
        for _ in range(starts):
            command = [sys.executable, "-m", "bench.core", "up", folder, *EMBEDDED]
            with Process(command, PYTHONPATH=str(ROOT)) as process:
                process.wait_for(READY)
                seconds.append(time.perf_counter() - process.started)
                time.sleep(SETTLE_SECONDS)
                process.check()
                alone.append(process.rss_mb())
                whole.append(process.tree_rss_mb())
    return Small(pipelines, tuple(seconds), tuple(alone), tuple(whole))


def measure_idle(bench: Bench, pipelines: int, seconds: float) -> Idle:
    """Many pipelines in one worker that has joined all its groups, watched for some seconds."""
    layout = Layout(f"idle-{pipelines}", many_pipelines(pipelines))
    bench.preload(layout, 0, "raw")
    with _resources(pipelines) as folder:
        command = [
            *(SELDON, "worker", folder, "--kafka-broker", bench.address),
            *("--namespace", layout.namespace, "--partitions", str(bench.partitions)),
        ]
        with Process(command, PYTHONPATH=str(ROOT)) as process:
            groups = tuple(layout.pipeline_groups)
            wait_until(lambda: bench.joined(groups), process, "not every group has its member", JOIN_SECONDS)
            time.sleep(SETTLE_SECONDS)
            since, before = time.perf_counter(), process.cpu_seconds()
            time.sleep(seconds)
            share = (process.cpu_seconds() - before) / (time.perf_counter() - since)
            process.check()
            found = Idle(pipelines, bench.partitions, seconds, share, process.threads(), process.rss_mb())
    bench.remove(layout)
    return found


@contextlib.contextmanager
def _resources(pipelines: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pipelines.yaml").write_text(many_pipelines(pipelines).resources)
        yield folder


def _one_by_one(host: str, port: int, calls: int) -> list[float]:
    connection = http.client.HTTPConnection(host, port, timeout=CALL_SECONDS)
    headers = {"Content-Type": "application/json", "seldon-model": f"{PIPELINE}.pipeline"}
    taken = []
    warm = calls // 2
    for number in range(warm + calls):
        text = json.dumps(body(number))
        since = time.perf_counter()
        connection.request("POST", f"/v2/models/{PIPELINE}/infer", text, headers)
        answer = connection.getresponse()
        said = answer.read()
        taken.append(time.perf_counter() - since)
        if answer.status != 200:
            raise RuntimeError(f"call {number} got {answer.status}: {said.decode()}")
    connection.close()
    return taken[warm:]
