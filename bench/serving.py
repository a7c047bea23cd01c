"""One model called directly: beside MLServer with the same Python model, and stacked against one call each."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import numpy as np

from bench import ROOT, resources
from bench.processes import MLSERVER as COMMAND
from bench.processes import READY, SELDON, Process, free_ports
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.messages import SERVICE, ModelInferRequest, ModelInferResponse
from engine.runtimes import mlserver
from engine.runtimes.inprocess import InProcessRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OURS, MLSERVER = "seldon up", "MLServer"
JSON, BINARY, GRPC = "REST JSON", "REST binary", "gRPC"

SHAPE = (64, 1000)
MODEL = "double"
IRIS = ROOT / "pipelines" / "iris"

# The part of a round's calls that comes first and is not counted.
WARM = 5

START_SECONDS = 60.0

CALLERS = 64
MOST_ROWS = 64
FLOWER = [[5.1, 3.5, 1.4, 0.2]]


@dataclass(frozen=True, slots=True)
class Calls:
    """A server called one call after the other: milliseconds of CPU of its processes, and of waiting, for each."""

    server: str
    payload: str
    calls: int
    cpu_ms: float
    median_ms: float


@dataclass(frozen=True, slots=True)
class Stacking:
    """Answers a second of 64 callers at a time, when each is a call and when they are stacked."""

    where: str
    calls: int
    single: float
    stacked: float


def measure(calls: int, rounds: int) -> list[Calls]:
    """Ours and MLServer in turn, each alone on the machine while it is called."""
    runs: dict[tuple[str, str], list[Calls]] = {}
    for _ in range(rounds):
        for server, serve in ((OURS, _ours), (MLSERVER, _mlserver)):
            with serve() as (process, rest, rpc):
                for payload, make in CLIENTS.items():
                    if server == MLSERVER and payload == BINARY:
                        # It reads none.
                        continue
                    with make(rest, rpc) as call:
                        runs.setdefault((server, payload), []).append(_timed(process, server, payload, call, calls))
    return [_middle(each) for each in runs.values()]


def _middle(runs: Sequence[Calls]) -> Calls:
    return sorted(runs, key=lambda run: run.cpu_ms)[len(runs) // 2]


def _timed(process: Process, server: str, payload: str, call: Callable[[], None], calls: int) -> Calls:
    for _ in range(calls // WARM):
        call()
    waits = []
    before = process.tree_cpu_seconds()
    for _ in range(calls):
        since = time.perf_counter()
        call()
        waits.append(time.perf_counter() - since)
    cpu = process.tree_cpu_seconds() - before
    process.check()
    return Calls(server, payload, calls, cpu / calls * 1e3, statistics.median(waits) * 1e3)


@contextlib.contextmanager
def _ours() -> Iterator[tuple[Process, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.yaml").write_text(resources.model(MODEL, "python:bench.peers.doubling:double"))
        with _up(folder) as (process, address):
            yield process, address, address


@contextlib.contextmanager
def _mlserver() -> Iterator[tuple[Process, str, str]]:
    """MLServer with the model in its one process: a second one for the model would cost it a copy more."""
    rest, rpc, metrics = free_ports(3)
    with tempfile.TemporaryDirectory() as folder:
        ports = {"http_port": rest, "grpc_port": rpc, "metrics_port": metrics, "host": "127.0.0.1"}
        (Path(folder) / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
        model = {"name": MODEL, "implementation": "bench.peers.doubling.Doubling"}
        (Path(folder) / "model-settings.json").write_text(json.dumps(model))
        with Process([COMMAND, "start", folder], PYTHONPATH=str(ROOT)) as process:
            _wait_ready(process, rest)
            yield process, f"127.0.0.1:{rest}", f"127.0.0.1:{rpc}"


def _wait_ready(process: Process, port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        process.check()
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", f"/v2/models/{MODEL}/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"MLServer was not ready in {START_SECONDS} s:\n{process.errors()}")


@contextlib.contextmanager
def _up(folder: str, **environment: str) -> Iterator[tuple[Process, str]]:
    command = [SELDON, "up", folder, "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0"]
    with Process(command, PYTHONPATH=str(ROOT), **environment) as process:
        gateway, _ = process.wait_for(READY)
        yield process, f"{gateway[1]}:{gateway[2]}"


def _array() -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).random(SHAPE, np.float32)


@contextlib.contextmanager
def _rest(
    address: str, body: bytes, headers: dict[str, str], check: Callable[[bytes], None]
) -> Iterator[Callable[[], None]]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)

    def call() -> None:
        connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{address} answered {answer.status}: {text[:500]!r}")
        check(text)

    try:
        call()
        yield call
    finally:
        connection.close()


@contextlib.contextmanager
def _json(rest: str, _rpc: str) -> Iterator[Callable[[], None]]:
    array = _array()
    tensor = {"name": "x", "datatype": "FP32", "shape": SHAPE, "data": array.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    checked = False

    def check(text: bytes) -> None:
        nonlocal checked
        if not checked:
            found = np.array(json.loads(text)["outputs"][0]["data"], np.float32)
            _same(found.reshape(SHAPE), array)
            checked = True

    with _rest(rest, body, {"Content-Type": "application/json"}, check) as call:
        yield call


@contextlib.contextmanager
def _binary(rest: str, _rpc: str) -> Iterator[Callable[[], None]]:
    array = _array()
    raw = array.tobytes()
    head = json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": SHAPE, "parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}

    def check(text: bytes) -> None:
        _same(np.frombuffer(text[-len(raw) :], np.float32).reshape(SHAPE), array)

    with _rest(rest, head + raw, headers, check) as call:
        yield call


@contextlib.contextmanager
def _grpc(_rest: str, rpc: str) -> Iterator[Callable[[], None]]:
    array = _array()
    request = ModelInferRequest(model_name=MODEL, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=SHAPE)
    value = request.SerializeToString()
    with grpc.insecure_channel(rpc) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        def call() -> None:
            answer = ModelInferResponse.FromString(infer(value, timeout=30))
            if answer.raw_output_contents:
                found = np.frombuffer(answer.raw_output_contents[0], np.float32)
            else:
                found = np.array(answer.outputs[0].contents.fp32_contents, np.float32)
            _same(found.reshape(SHAPE), array)

        call()
        yield call


def _same(found: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> None:
    if not np.array_equal(found, array * 2):
        raise RuntimeError("the answer is not twice the request")


CLIENTS = {JSON: _json, BINARY: _binary, GRPC: _grpc}


def measure_stacking(calls: int) -> list[Stacking]:
    """The iris sample with 64 callers at a time: at its runtime in this process, and by REST from `seldon up`."""
    runtime = [asyncio.run(_at_the_runtime(max_rows, calls)) for max_rows in (None, MOST_ROWS)]
    with tempfile.TemporaryDirectory() as folder:
        models = [
            resources.model("single", IRIS.as_uri(), requirements="sklearn"),
            resources.model("stacked", IRIS.as_uri(), {"max_batch_size": str(MOST_ROWS)}, "sklearn"),
        ]
        (Path(folder) / "models.yaml").write_text("".join(models))
        # The sample stands elsewhere than the file that names it.
        with _up(folder, SELDON_ALLOW_PICKLE="true") as (_, address):
            rest = [asyncio.run(_by_rest(address, name, calls)) for name in ("single", "stacked")]
    return [Stacking("at the runtime", calls, *runtime), Stacking("by REST", calls, *rest)]


async def _at_the_runtime(max_rows: int | None, calls: int) -> float:
    load = partial(mlserver.load, "iris", "sklearn", IRIS, {}, IRIS)
    runtime = InProcessRuntime("iris", load, max_rows=max_rows, threads=4)
    await runtime.load()
    cells = (np.array([FLOWER], np.float32),)
    asked = Columns([b""], (TensorSpec("predict", "FP32", (1, 4)),), cells)

    async def call() -> None:
        async for part in runtime.infer(asked, [()], 30.0):
            if not isinstance(part.outcome, Columns) or part.outcome.array(0, 0).tolist() != [[0]]:
                raise RuntimeError(f"the answer is wrong: {part.outcome}")

    try:
        return await _rate(call, calls)
    finally:
        await runtime.unload()


async def _by_rest(address: str, name: str, calls: int) -> float:
    body = json.dumps({"inputs": [{"name": "predict", "datatype": "FP32", "shape": [1, 4], "data": FLOWER}]}).encode()
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CALLERS)) as session:

        async def call() -> None:
            async with session.post(f"http://{address}/v2/models/{name}/infer", data=body, headers=headers) as answer:
                found = await answer.json()
                if answer.status != 200 or found["outputs"][0]["data"] != [0]:
                    raise RuntimeError(f"the answer is wrong: {found}")

        return await _rate(call, calls)


async def _rate(call: Callable[[], Any], calls: int) -> float:
    """Calls a second by 64 callers, each of which calls again when it has its answer."""
    left = calls // WARM

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    async def all_callers() -> None:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    await all_callers()
    left, since = calls, time.perf_counter()
    await all_callers()
    return calls / (time.perf_counter() - since)
