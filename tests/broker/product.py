"""The product as a user runs it: processes of its command line, and calls over REST, gRPC and the command line."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc

from engine.kafka.broker import die_with_parent
from engine.protocol.messages import SERVICE, ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

SELDON = str(Path(sys.executable).parent / "seldon")
SAMPLES = Path(__file__).resolve().parents[2] / "pipelines"
RESOURCES = Path(__file__).resolve().parent / "resources"

START_DEADLINE = 45.0
STOP_DEADLINE = 30.0
CALL_DEADLINE = 30.0
LOOK_AGAIN = 0.02

# What a developer's shell may have set must not reach the product under test.
SETTINGS_PREFIXES = ("SELDON_", "KAFKA_", "POD_NAMESPACE")


# Nor must the configs in a developer's home; what was fetched and compiled before is kept where it is.
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")


@cache
def _empty_home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="millrace-home-")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without settings of the product and with an empty home, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS_PREFIXES)}
    return {**kept, "HOME": _empty_home().name, "XDG_CACHE_HOME": CACHE, **(extra or {})}


def wait_until(true: Callable[[], object], what: Callable[[], str] | str, seconds: float) -> Any:
    """The first true thing that `true` gives; fails with `what` when none came in time."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:g} s: {text}")
        time.sleep(LOOK_AGAIN)
    return found


class Product:
    """One process of the product: `seldon up`, `worker` or `gateway`, in an empty folder of its own.

    `folder` holds what it prints, in files beside its working directory.
    """

    def __init__(self, folder: Path, *arguments: object, settings: Mapping[str, str] | None = None) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self._settings = settings
        self.directory = folder / "cwd"
        self._out, self._err = folder / "stdout", folder / "stderr"
        self.directory.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What is run, before its arguments."""
        return [SELDON]

    def launch(self) -> Self:
        """Start it and do not wait."""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                die_with_parent([*self.command, *self.arguments]),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env=environment(self._settings),
            )
        return self

    def start(self) -> Self:
        """Start it and wait until it says that it is ready."""
        return self.launch().wait_ready()

    def wait_ready(self) -> Self:
        """Wait until it says that it is ready."""
        wait_until(self._ready_or_over, lambda: f"ready\n{self.said}", START_DEADLINE)
        assert self.running, f"ended with {self.process.returncode} while it started\n{self.said}"
        return self

    def _ready_or_over(self) -> bool:
        return "ready in" in self.out or not self.running

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def said(self) -> str:
        """What it printed, for messages of failed tests."""
        return f"$ seldon {' '.join(self.arguments)}\n{self.out}\n{self.err}"

    @property
    def address(self) -> str:
        """HOST:PORT of its gateway, from its banner."""
        return self._banner("gateway")

    @property
    def broker(self) -> str:
        """HOST:PORT of its broker, from its banner."""
        return self._banner("broker")

    def _banner(self, part: str) -> str:
        for line in self.out.splitlines():
            words = line.replace(",", " ").split()
            if words[:1] == [part]:
                return words[1]
        raise AssertionError(f"the banner names no {part}\n{self.said}")

    def wait(self, seconds: float = STOP_DEADLINE) -> int:
        """Its exit code, once it has ended by itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s\n{self.said}") from None

    def stop(self) -> None:
        """SIGTERM, and all that is promised of it: exit code 0, no traceback, nothing left in its folder."""
        assert self.running, f"it had ended with {self.process.returncode}\n{self.said}"
        self.process.send_signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"SIGTERM ended it with {code}\n{self.said}"
        assert "Traceback" not in self.err, f"it printed a traceback\n{self.said}"
        left = [path.name for path in self.directory.iterdir()]
        assert not left, f"it left files in its working directory: {left}"

    def kill(self) -> None:
        """SIGKILL; harmless when it has ended or was never started."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Said:
    """What a command of the command line printed, and its exit code."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


def seldon(*arguments: object, cwd: Path | None = None, settings: Mapping[str, str] | None = None) -> Said:
    """Run a command to its end."""
    done = subprocess.run(
        [SELDON, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=CALL_DEADLINE,
        cwd=cwd,
        env=environment(settings),
    )
    return Said(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Response:
    """An HTTP response: names of headers in lower case, in their order."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def output(self, name: str) -> list[Any]:
        """The data of an output; fails with the whole answer when there is none."""
        assert self.status == 200, str(self)
        for tensor in self.json["outputs"]:
            if tensor["name"] == name:
                data: list[Any] = tensor["data"]
                return data
        raise AssertionError(f"no output {name} in {self}")

    def __str__(self) -> str:
        return f"HTTP {self.status} after {self.seconds:.2f} s\n{self.headers}\n{self.body.decode(errors='replace')}"


def http_call(
    address: str,
    method: str,
    path: str,
    document: object = None,
    headers: Iterable[tuple[str, str]] = (),
) -> Response:
    """One HTTP request; headers may repeat."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    since = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection(address, timeout=CALL_DEADLINE)) as connection:
        connection.putrequest(method, path)
        for name, value in headers:
            connection.putheader(name, value)
        if document is not None:
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if document is not None:
            with contextlib.suppress(ConnectionError):  # an answer may come before the body is read
                connection.send(body)
        answer = connection.getresponse()
        pairs = [(name.lower(), value) for name, value in answer.getheaders()]
        return Response(answer.status, pairs, answer.read(), time.monotonic() - since)


def get(address: str, path: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    return http_call(address, "GET", path, None, headers)


def infer(
    address: str,
    target: str,
    document: object,
    headers: Iterable[tuple[str, str]] = (),
) -> Response:
    """POST to `models/NAME` or `pipelines/NAME`."""
    return http_call(address, "POST", f"/v2/{target}/infer", document, headers)


def inputs(datatype: str = "INT32", **tensors: Sequence[Any]) -> dict[str, Any]:
    """A V2 document: each tensor one row."""
    return {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [1, len(data)], "data": list(data)}
            for name, data in tensors.items()
        ]
    }


def message(model: str = "", /, id: str = "", **tensors: Sequence[int]) -> Any:  # noqa: A002  the message's field
    """A V2 proto request: each tensor one row of INT32."""
    request = ModelInferRequest(model_name=model, id=id)
    for name, data in tensors.items():
        tensor = request.inputs.add(name=name, datatype="INT32", shape=[1, len(data)])
        tensor.contents.int_contents.extend(data)
    return request


def values(response: Any, name: str) -> list[int]:
    """The INT32 data of an output of a V2 proto response, raw or typed."""
    for index, tensor in enumerate(response.outputs):
        if tensor.name == name:
            if response.raw_output_contents:
                raw = response.raw_output_contents[index]
                return [int.from_bytes(raw[at : at + 4], sys.byteorder, signed=True) for at in range(0, len(raw), 4)]
            return list(tensor.contents.int_contents)
    raise AssertionError(f"no output {name} in {response}")


class GrpcFailed(Exception):
    """A gRPC call that ended with another status than OK."""

    def __init__(self, error: Any, seconds: float) -> None:
        super().__init__(f"{error.code()}: {error.details()} after {seconds:.2f} s")
        self.code: str = error.code().name
        self.details: str = error.details()
        self.seconds = seconds
        trailing = list(error.trailing_metadata() or ())
        self.request_ids = [value for name, value in trailing if name == "x-request-id"]


def grpc_infer(
    address: str,
    request: Any,
    metadata: Sequence[tuple[str, str]] = (),
    seconds: float = CALL_DEADLINE,
) -> tuple[Any, list[tuple[str, str]]]:
    """ModelInfer: the response and its metadata, or GrpcFailed."""
    since = time.monotonic()
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
        )
        try:
            answer, call = method.with_call(request, timeout=seconds, metadata=tuple(metadata))
        except grpc.RpcError as error:
            raise GrpcFailed(error, time.monotonic() - since) from None
        return answer, list(call.initial_metadata())
