"""A real MLServer as the remote model, over gRPC and REST: our runtime calls it as it would call any V2 server."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.errors import InvalidInput, ModelFailed
from engine.protocol import columns as col
from engine.protocol.columns import Columns, TensorSpec
from engine.runtimes.choice import connect
from engine.runtimes.remote import RemoteRuntime

START_SECONDS = 60
FLOWERS = np.array([[[5.1, 3.5, 1.4, 0.2]], [[6.7, 3.0, 5.2, 2.3]]], dtype=np.float32)


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """MLServer with a scikit-learn classifier called `iris`, in a process of its own."""
    folder = tmp_path_factory.mktemp("mlserver")
    train(folder / "model.joblib")
    ports = free_ports(3)
    names = ("http_port", "grpc_port", "metrics_port")
    settings = dict(zip(names, ports, strict=True)) | {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "v7"},
        "inputs": [{"name": "declared", "datatype": "FP64", "shape": [-1, 4]}],
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    log = folder / "log"
    command = [str(Path(sys.executable).with_name("mlserver")), "start", str(folder)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=folder) as process:
        try:
            uris = {"http": f"http://127.0.0.1:{ports[0]}/iris", "grpc": f"grpc://127.0.0.1:{ports[1]}/iris"}
            for uri in uris.values():
                asyncio.run(serves(uri, process, log))
            yield uris
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(params=["grpc", "http"])
def uri(mlserver: dict[str, str], request: pytest.FixtureRequest) -> str:
    """The address of its model."""
    return mlserver[request.param]


def train(artefact: Path) -> None:
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, species = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=1000).fit(features, species), artefact)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


async def serves(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    runtime = await open_runtime(uri)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await runtime.ready():
                assert process.poll() is None, f"MLServer ended; its log is {log}"
                await asyncio.sleep(0.1)
    finally:
        await runtime.unload()


async def open_runtime(uri: str) -> RemoteRuntime:
    runtime = connect("flowers", uri, max_message_bytes=1 << 24)
    await runtime.load()
    return runtime


def request(cells: np.ndarray, shape: tuple[int, ...]) -> Columns:
    return Columns([b"\x1a\x01a", b"\x1a\x01b"], (TensorSpec("predict", "FP32", shape),), (cells,))


async def test_it_answers_through_the_runtime_and_ids_are_kept(uri: str) -> None:
    runtime = await open_runtime(uri)
    try:
        answers = {}
        async for part in runtime.infer(request(FLOWERS, (1, 4)), [(("x-foo", b"bar"),)] * 2, 10):
            assert isinstance(part.outcome, Columns), part.outcome
            for index, row in enumerate(part.rows):
                message = col.to_message(part.outcome, index, col.RESPONSE)
                answers[row] = (message.id, int(part.outcome.array(0, index).reshape(-1)[0]))
    finally:
        await runtime.unload()
    assert answers == {0: ("a", 0), 1: ("b", 2)}


async def test_its_metadata_comes_under_our_name(uri: str) -> None:
    runtime = await open_runtime(uri)
    try:
        metadata = await runtime.metadata()
    finally:
        await runtime.unload()
    assert metadata.name == "flowers"


async def test_it_takes_more_than_it_declares_and_is_given_it(uri: str) -> None:
    runtime = await open_runtime(uri)
    try:
        [declared] = (await runtime.metadata()).inputs
        parts = [part async for part in runtime.infer(request(FLOWERS, (1, 4)), [(), ()], 10)]
    finally:
        await runtime.unload()
    assert (declared.name, declared.datatype, declared.shape[:]) == ("declared", "FP64", [-1, 4])
    assert all(isinstance(part.outcome, Columns) for part in parts), parts


async def test_its_refusal_is_the_requests_error_and_not_a_hang(uri: str) -> None:
    runtime = await open_runtime(uri)
    wrong = np.zeros((2, 1, 3), dtype=np.float32)
    try:
        outcomes = [part.outcome async for part in runtime.infer(request(wrong, (1, 3)), [(), ()], 10)]
    finally:
        await runtime.unload()
    assert outcomes
    assert all(isinstance(outcome, InvalidInput | ModelFailed) for outcome in outcomes)
