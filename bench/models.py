"""Models of the works that no sample has."""

from __future__ import annotations

import numpy as np


def double(TENSOR: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Twice as much."""
    return {"TENSOR": TENSOR * 2}


def stripped(TEXT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Texts without the space around them."""
    return {"TEXT": _each(bytes.strip, TEXT)}


def upper(TEXT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Texts in capitals."""
    return {"TEXT": _each(bytes.upper, TEXT)}


def _each(change: object, texts: np.ndarray) -> np.ndarray:
    assert callable(change)
    found = np.empty(texts.size, object)
    found[:] = [change(text) for text in texts.ravel()]
    return found.reshape(texts.shape)
