"""The tfsimples chain for one request, as any Python program would write it: messages and numpy arrays.

Each of `STEPS` makes the message of one topic out of the one before, in the order of `ChainTopics.written`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.chain import DATATYPE, INPUTS, MODELS, OUTPUTS, PIPELINE
from engine.protocol.messages import ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def given(model: str, request: Any) -> Any:
    """The pipeline's request, whose contents may be typed, as the first model's."""
    if request.raw_input_contents:
        return _request(model, request.id, _arrays(request.inputs, request.raw_input_contents))
    typed = [np.array(tensor.contents.int_contents, np.int32).reshape(tensor.shape) for tensor in request.inputs]
    return _request(model, request.id, typed)


def computed(model: str, request: Any) -> Any:
    """A model's answer: sum and difference."""
    left, right = _arrays(request.inputs, request.raw_input_contents)
    return _response(model, request.id, (left + right, left - right))


def passed_on(model: str, response: Any) -> Any:
    """An answer as the next model's request."""
    return _request(model, response.id, _arrays(response.outputs, response.raw_output_contents))


def answered(pipeline: str, response: Any) -> Any:
    """The last model's answer as the pipeline's."""
    return _response(pipeline, response.id, _arrays(response.outputs, response.raw_output_contents))


STEPS: tuple[Callable[[Any], Any], ...] = (
    partial(given, MODELS[0]),
    partial(computed, MODELS[0]),
    partial(passed_on, MODELS[1]),
    partial(computed, MODELS[1]),
    partial(answered, PIPELINE),
)


def _arrays(tensors: Any, raw: Any) -> list[np.ndarray]:
    return [np.frombuffer(each, np.int32).reshape(tensor.shape) for tensor, each in zip(tensors, raw, strict=True)]


def _request(model: str, request_id: str, arrays: Sequence[np.ndarray]) -> Any:
    message = ModelInferRequest(model_name=model, id=request_id)
    for name, array in zip(INPUTS, arrays, strict=True):
        message.inputs.add(name=name, datatype=DATATYPE, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    return message


def _response(model: str, request_id: str, arrays: Sequence[np.ndarray]) -> Any:
    message = ModelInferResponse(model_name=model, id=request_id)
    for name, array in zip(OUTPUTS, arrays, strict=True):
        message.outputs.add(name=name, datatype=DATATYPE, shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return message
