"""What the form begins with: a request that fits what the model, or the pipeline, says of its inputs."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from engine.errors import InvalidInput
from engine.protocol.metadata import example

Data: TypeAlias = "dict[str, Any]"

# A text of more elements than this is none to edit by hand.
MOST_ELEMENTS = 10_000

_UNKNOWN = {"inputs": [{"name": "INPUT", "shape": [1], "datatype": "FP32", "data": [1]}]}


def prefilled(metadata: Any) -> Data:
    """A request in V2 JSON, and what is to be said of it."""
    sizes = {item.name: math.prod(size if size > 0 else 1 for size in item.shape) for item in metadata.inputs}
    large = [name for name, size in sizes.items() if size > MOST_ELEMENTS]
    if large:
        inputs = [
            {"name": item.name, "shape": item.shape[:], "datatype": item.datatype, "data": []}
            for item in metadata.inputs
        ]
        names = ", ".join(large)
        return {"request": {"inputs": inputs}, "note": f"Too large to be filled in here: {names}. Put in data."}
    try:
        request = example(metadata)
    except InvalidInput as error:
        return {"request": _UNKNOWN, "note": f"{error}. Put in its inputs."}
    guessed = [item.name for item in metadata.inputs if not item.datatype]
    note = f"Nobody tells the datatype and shape of {', '.join(guessed)}: these are guesses." if guessed else ""
    return {"request": request, "note": note}
