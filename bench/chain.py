"""The work that every contender is given: the tfsimples chain, its topics, its records, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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


def integers(answer: Any) -> list[np.ndarray]:
    """The tensors of an INT32 answer, flat."""
    if answer.raw_output_contents:
        return [np.frombuffer(raw, np.int32) for raw in answer.raw_output_contents]
    return [np.array(tensor.contents.int_contents, np.int32) for tensor in answer.outputs]


def check(value: bytes, steps: int = 2) -> None:
    """Raise ValueError unless an answer is right: sum and difference of sum and difference, so many times."""
    answer = ModelInferResponse.FromString(value)
    wanted = arrays(int(answer.id))
    for _ in range(steps):
        wanted = wanted[0] + wanted[1], wanted[0] - wanted[1]
    found = dict(zip((tensor.name for tensor in answer.outputs), integers(answer), strict=True))
    for name, array in zip(OUTPUTS, wanted, strict=True):
        if not np.array_equal(found.get(name), array.ravel()):
            raise ValueError(f"request {answer.id}: {name} is {found.get(name)}, not {array.ravel()}")
