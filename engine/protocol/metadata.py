"""What a model says of its tensors: the JSON of V2 REST, and `ModelMetadataResponse`."""

from __future__ import annotations

import math
from typing import Any

import orjson

from engine.errors import InvalidInput
from engine.protocol.messages import ModelMetadataResponse

# What an example of one tensor may hold: some 40 MB of JSON.
MOST_ELEMENTS = 10_000_000

# What stands for one where it is no number.
_ONES: dict[str, Any] = {"BOOL": True, "BYTES": "a"}


def encode_metadata(message: Any) -> bytes:
    """A `ModelMetadataResponse` in JSON."""
    return orjson.dumps(
        {
            "name": message.name,
            "versions": message.versions[:],
            "platform": message.platform,
            "inputs": [_described(item) for item in message.inputs],
            "outputs": [_described(item) for item in message.outputs],
        }
    )


def decode_metadata(body: bytes) -> Any:
    """The message of such JSON, whoever wrote it; InvalidInput says what is wrong with it."""
    try:
        found = orjson.loads(body)
        message = ModelMetadataResponse(
            name=found["name"], platform=found.get("platform") or "", versions=found.get("versions") or []
        )
        for side in ("inputs", "outputs"):
            for tensor in found.get(side) or []:
                described = {name: tensor[name] for name in ("name", "datatype", "shape")}
                getattr(message, side).add(**described)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"the metadata is none of V2: {error!r}") from None
    return message


def example(message: Any) -> dict[str, Any]:
    """A request in JSON's terms that fits a `ModelMetadataResponse`: ones, and one where a dimension may be any.

    A Python function tells its parameters' names and no more: of these it is one FP32. InvalidInput without inputs.
    """
    if not message.inputs:
        raise InvalidInput(f'"{message.name}" does not tell what its inputs are')
    return {"inputs": [_filled(item) for item in message.inputs]}


def _filled(item: Any) -> dict[str, Any]:
    datatype = item.datatype or "FP32"
    # Without a datatype nothing is known of the shape either.
    shape = [size if size > 0 else 1 for size in item.shape] if item.datatype else [1]
    count = math.prod(shape)
    if count > MOST_ELEMENTS:
        raise InvalidInput(f'input "{item.name}" has {count:,} elements')
    return {"name": item.name, "datatype": datatype, "shape": shape, "data": [_ONES.get(datatype, 1)] * count}


def _described(item: Any) -> dict[str, Any]:
    return {"name": item.name, "datatype": item.datatype, "shape": item.shape[:]}
