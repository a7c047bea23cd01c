"""The work that every contender is given: the tfsimples chain, its topics, its records, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.protocol.messages import ModelInferRequest, ModelInferResponse
from engine.protocol.record import Owner, Side, Topics

Contents = Literal["raw", "typed"]

PIPELINE = "tfsimples"
MODELS = ("tfsimple1", "tfsimple2")
INPUTS = ("INPUT0", "INPUT1")
OUTPUTS = ("OUTPUT0", "OUTPUT1")
DATATYPE, SHAPE = "INT32", (1, 16)

# What a caller on Kafka sends along; it travels to every topic.
HEADERS: tuple[tuple[str, bytes], ...] = (("x-bench", b"1"),)


@dataclass(frozen=True, slots=True)
class ChainTopics:
    """The chain's topics in one namespace: one is read, five are written."""

    namespace: str

    @property
    def inputs(self) -> str:
        return self._of(Owner.PIPELINE, PIPELINE, Side.INPUTS)

    @property
    def steps(self) -> tuple[str, ...]:
        """The inputs and outputs of both models, in the order of the chain."""
        return tuple(self._of(Owner.MODEL, name, side) for name in MODELS for side in (Side.INPUTS, Side.OUTPUTS))

    @property
    def outputs(self) -> str:
        return self._of(Owner.PIPELINE, PIPELINE, Side.OUTPUTS)

    @property
    def written(self) -> tuple[str, ...]:
        return (*self.steps, self.outputs)

    @property
    def models_group(self) -> str:
        """The consumer group of the models' agent."""
        return Topics("seldon", self.namespace).group(Owner.MODEL, "")

    @property
    def pipeline_group(self) -> str:
        """The consumer group of the pipeline."""
        return Topics("seldon", self.namespace).group(Owner.PIPELINE, PIPELINE)

    def _of(self, owner: Owner, name: str, side: Side) -> str:
        return Topics("seldon", self.namespace).of(owner, name, side)


def arrays(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The two tensors of the n-th request."""
    counted = np.arange(1, 17, dtype=np.int32).reshape(SHAPE)
    return counted + np.int32(number % 1000), counted


def request(number: int, contents: Contents) -> bytes:
    """The n-th request as a record's value."""
    message = ModelInferRequest(model_name=PIPELINE, id=str(number))
    for name, array in zip(INPUTS, arrays(number), strict=True):
        tensor = message.inputs.add(name=name, datatype=DATATYPE, shape=SHAPE)
        if contents == "raw":
            message.raw_input_contents.append(array.tobytes())
        else:
            tensor.contents.int_contents.extend(array.ravel().tolist())
    return message.SerializeToString()


def check(value: bytes) -> None:
    """Raise ValueError unless an answer is right: sum and difference, twice, are twice each input."""
    answer = ModelInferResponse.FromString(value)
    found = {
        tensor.name: np.frombuffer(raw, np.int32) if raw else np.array(tensor.contents.int_contents, np.int32)
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents or [b""] * 2, strict=True)
    }
    for name, array in zip(OUTPUTS, arrays(int(answer.id)), strict=True):
        if not np.array_equal(found.get(name), 2 * array.ravel()):
            raise ValueError(f"request {answer.id}: {name} is {found.get(name)}, not {2 * array.ravel()}")
