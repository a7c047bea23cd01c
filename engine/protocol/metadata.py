"""What a model says of its tensors: the JSON of V2 REST, and `ModelMetadataResponse`."""

from __future__ import annotations

from typing import Any

import orjson

from engine.errors import InvalidInput
from engine.protocol.messages import ModelMetadataResponse


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


def _described(item: Any) -> dict[str, Any]:
    return {"name": item.name, "datatype": item.datatype, "shape": item.shape[:]}
