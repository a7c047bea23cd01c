"""One model for two servers: ours calls the function, MLServer the class, and both double the same array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

if TYPE_CHECKING:
    import numpy as np


def double(x: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Twice the numbers."""
    return {"y": x * 2}


class Doubling(MLModel):
    """The same by MLServer."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Twice the numbers."""
        array = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array * 2)])
