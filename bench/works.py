"""What contenders are given: requests, the topics that must be written for each, and answers that are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bench import ROOT, chain, resources
from bench.resources import ADD_SUB, MOST_ROWS
from engine.protocol.messages import ModelInferRequest, ModelInferResponse
from engine.protocol.record import Owner, Side, Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.chain import Contents

# 1 MiB of FP32.
TENSOR_SHAPE = (1, 262_144)
TEXTS = 16


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of requests, and what is to be made of them.

    resources   YAML of the models and pipelines, as the product reads it
    pipelines   that are called, each with an equal share of the requests
    models      each with the share of all requests that reaches it
    request     the n-th, as a record's value
    check       raises ValueError when an answer, a record's value, is not right
    megabytes   of tensors in a request, where that is what matters
    """

    name: str
    title: str
    resources: str
    pipelines: tuple[str, ...]
    models: Mapping[str, float]
    request: Callable[[int, Contents], bytes]
    check: Callable[[bytes], None]
    megabytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Layout:
    """The topics and groups of a work in one namespace."""

    namespace: str
    work: Work

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self._of(Owner.PIPELINE, name, Side.INPUTS) for name in self.work.pipelines)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self._of(Owner.PIPELINE, name, Side.OUTPUTS) for name in self.work.pipelines)

    @property
    def step_inputs(self) -> tuple[str, ...]:
        return tuple(self._of(Owner.MODEL, name, Side.INPUTS) for name in self.work.models)

    def written(self, requests: int) -> dict[str, int]:
        """How many records each topic must hold after so many requests, the pipelines' outputs last."""
        steps = {
            self._of(Owner.MODEL, name, side): round(requests * share)
            for name, share in self.work.models.items()
            for side in (Side.INPUTS, Side.OUTPUTS)
        }
        return steps | dict.fromkeys(self.outputs, requests // len(self.outputs))

    @property
    def models_group(self) -> str:
        """The consumer group of the models' agent."""
        return Topics("seldon", self.namespace).group(Owner.MODEL, "")

    @property
    def pipeline_groups(self) -> dict[str, str]:
        """The consumer group of each pipeline, with the topic that it reads."""
        topics = Topics("seldon", self.namespace)
        groups = (topics.group(Owner.PIPELINE, name) for name in self.work.pipelines)
        return dict(zip(groups, self.inputs, strict=True))

    def _of(self, owner: Owner, name: str, side: Side) -> str:
        return Topics("seldon", self.namespace).of(owner, name, side)


def tfsimples() -> Work:
    """The sample: two models, one after the other."""
    text = (ROOT / "pipelines" / "tfsimples.yaml").read_text().replace("python:models:", "python:pipelines.models:")
    title = "tfsimples: two models chained, INT32 [1,16]"
    return Work(
        "tfsimples", title, text, (chain.PIPELINE,), dict.fromkeys(chain.MODELS, 1.0), chain.request, chain.check
    )


def long_chain(steps: int) -> Work:
    """tfsimples with any number of steps, a model each."""
    models = [f"step{number}" for number in range(steps)]
    text = "".join(resources.model(name, ADD_SUB, MOST_ROWS) for name in models) + resources.chain("long", models)
    check = partial(chain.check, steps=steps)
    return Work(f"steps-{steps}", f"{steps} steps", text, ("long",), dict.fromkeys(models, 1.0), chain.request, check)


def many_pipelines(count: int) -> Work:
    """tfsimples any number of times, with the same two models."""
    names = tuple(f"tfsimples{number}" for number in range(count))
    text = "".join(resources.model(name, ADD_SUB, MOST_ROWS) for name in chain.MODELS)
    text += "".join(resources.chain(name, chain.MODELS) for name in names)
    shares = dict.fromkeys(chain.MODELS, 1.0)
    return Work(f"pipelines-{count}", f"{count} pipelines at once", text, names, shares, chain.request, chain.check)


def join() -> Work:
    """A third model takes the sum of one and the difference of another: its answers are those of tfsimples."""
    models = ("left", "right", "joined")
    tensor_map = "{left.outputs.OUTPUT0: INPUT0, right.outputs.OUTPUT1: INPUT1}"
    inputs = "[left.outputs.OUTPUT0, right.outputs.OUTPUT1]"
    steps = ("name: left", "name: right", f"name: joined, inputs: {inputs}, tensorMap: {tensor_map}")
    text = "".join(resources.model(name, ADD_SUB, MOST_ROWS) for name in models)
    text += resources.pipeline("join", steps, "joined")
    return Work("join", "join of three models", text, ("join",), dict.fromkeys(models, 1.0), chain.request, chain.check)


def conditional() -> Work:
    """The sample: half the requests go one way, half the other."""
    text = (ROOT / "pipelines" / "conditional.yaml").read_text().replace("python:models:", "python:pipelines.models:")
    shares = {"choose": 1.0, "add10": 0.5, "mul10": 0.5}
    title = "conditional: one of two branches"
    return Work("conditional", title, text, ("conditional",), shares, _conditional_request, _check_conditional)


def tensors() -> Work:
    """1 MiB of FP32 through two steps."""
    models = ("double1", "double2")
    text = "".join(resources.model(name, "python:bench.models:double") for name in models)
    text += resources.pipeline("tensors", ("name: double1", "name: double2, inputs: [double1]"), "double2")
    megabytes = TENSOR_SHAPE[1] * 4 / 1e6
    shares = dict.fromkeys(models, 1.0)
    title = "FP32 of 1 MB through two steps"
    return Work("tensors", title, text, ("tensors",), shares, _tensor_request, _check_tensor, megabytes)


def texts() -> Work:
    """BYTES of 16 texts through two steps."""
    models = ("stripped", "upper")
    text = "".join(resources.model(name, f"python:bench.models:{name}", MOST_ROWS) for name in models)
    text += resources.pipeline("texts", ("name: stripped", "name: upper, inputs: [stripped]"), "upper")
    shares = dict.fromkeys(models, 1.0)
    return Work("texts", f"BYTES: {TEXTS} texts, two steps", text, ("texts",), shares, _text_request, _check_text)


def remote_slow(server: str, *, stacked: bool) -> Work:
    """One model behind gRPC that takes 5 ms."""
    text = resources.model("slow", f"grpc://{server}", MOST_ROWS if stacked else None)
    text += resources.pipeline("remote", ("name: slow",), "slow")
    title = f"a remote gRPC model of 5 ms{', stacked' if stacked else ''}"
    check = partial(chain.check, steps=1)
    name = f"remote-{'stacked' if stacked else 'single'}"
    return Work(name, title, text, ("remote",), {"slow": 1.0}, chain.request, check)


def remote_chain(server: str, *, stacked: bool) -> Work:
    """tfsimples with both models behind gRPC."""
    parameters = MOST_ROWS if stacked else None
    text = "".join(resources.model(name, f"grpc://{server}", parameters) for name in chain.MODELS)
    text += resources.chain(chain.PIPELINE, chain.MODELS)
    title = f"tfsimples, both models behind gRPC{', stacked' if stacked else ''}"
    name = f"grpc-{'stacked' if stacked else 'single'}"
    shares = dict.fromkeys(chain.MODELS, 1.0)
    return Work(name, title, text, (chain.PIPELINE,), shares, chain.request, chain.check)


def _conditional_array(number: int) -> np.ndarray:
    """Of even numbers the total is under 100, which is where the sample draws the line."""
    return np.full((1, 16), 100 + number % 1000 if number % 2 else number % 6, np.int32)


def _conditional_request(number: int, contents: Contents) -> bytes:
    array = _conditional_array(number)
    message = ModelInferRequest(model_name="conditional", id=str(number))
    tensor = message.inputs.add(name="INPUT0", datatype="INT32", shape=array.shape)
    if contents == "raw":
        message.raw_input_contents.append(array.tobytes())
    else:
        tensor.contents.int_contents.extend(array.ravel().tolist())
    return message.SerializeToString()


def _check_conditional(value: bytes) -> None:
    answer = ModelInferResponse.FromString(value)
    number = int(answer.id)
    array = _conditional_array(number)
    _same(answer.id, chain.integers(answer)[0], array * 10 if number % 2 else array + 10)


def _tensor_request(number: int, contents: Contents) -> bytes:
    array = np.full(TENSOR_SHAPE, number % 1000, np.float32)
    message = ModelInferRequest(model_name="tensors", id=str(number))
    tensor = message.inputs.add(name="TENSOR", datatype="FP32", shape=TENSOR_SHAPE)
    if contents == "raw":
        message.raw_input_contents.append(array.tobytes())
    else:
        tensor.contents.fp32_contents.extend(array.ravel().tolist())
    return message.SerializeToString()


def _check_tensor(value: bytes) -> None:
    answer = ModelInferResponse.FromString(value)
    raw, typed = answer.raw_output_contents, answer.outputs[0].contents.fp32_contents
    found = np.frombuffer(raw[0], np.float32) if raw else np.array(typed, np.float32)
    _same(answer.id, found, np.full(TENSOR_SHAPE, 4 * (int(answer.id) % 1000), np.float32))


def _texts(number: int) -> list[bytes]:
    return [f"  Text {number}, the {each}th of {TEXTS} ".encode() for each in range(TEXTS)]


def _text_request(number: int, contents: Contents) -> bytes:
    texts = _texts(number)
    message = ModelInferRequest(model_name="texts", id=str(number))
    tensor = message.inputs.add(name="TEXT", datatype="BYTES", shape=(1, TEXTS))
    if contents == "raw":
        message.raw_input_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    else:
        tensor.contents.bytes_contents.extend(texts)
    return message.SerializeToString()


def _check_text(value: bytes) -> None:
    answer = ModelInferResponse.FromString(value)
    wanted = [text.strip().upper() for text in _texts(int(answer.id))]
    found, rest = [], answer.raw_output_contents[0] if answer.raw_output_contents else b""
    while rest:
        size = int.from_bytes(rest[:4], "little")
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    if (found or list(answer.outputs[0].contents.bytes_contents)) != wanted:
        raise ValueError(f"request {answer.id}: the texts are {found}, not {wanted}")


def _same(request: str, found: np.ndarray, wanted: np.ndarray) -> None:
    if not np.array_equal(found.ravel(), wanted.ravel()):
        raise ValueError(f"request {request}: the answer is {found}, not {wanted}")
