"""Models of the fault suite. Each that works adds one to its number."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plus(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803  the tensor's name
    """The next number."""
    return {"INPUT": INPUT + 1}


def moody(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.generic]]:  # noqa: N803
    """The next number, except that every tenth request goes wrong in one of five ways."""
    number = int(INPUT.flat[0])
    kind = number // 10 % 5 if number % 10 == 0 else None
    if kind == 0:
        raise ValueError("not this number")
    if kind == 1:
        return {"INPUT": np.array([[np.nan]], np.float32)}
    if kind == 2:
        return {"ANOTHER": INPUT + 1}
    if kind == 3:
        return "no tensors"  # type: ignore[return-value]
    if kind == 4:
        time.sleep(3600)
    return {"INPUT": INPUT + 1}


def grow(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803
    """As many numbers as the first says."""
    return {"INPUT": np.zeros((1, int(INPUT.flat[0])), np.int32)}
