"""The models of the bench's branching pipelines."""

import time

import numpy as np

SLOW_SECONDS = 0.2


def quick(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """One more."""
    return {"OUTPUT": INPUT + 1}


def slow(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """One more, and for negative numbers later."""
    if INPUT[0] < 0:
        time.sleep(SLOW_SECONDS)
    return {"OUTPUT": INPUT + 1}


def choose(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Negative numbers go another way."""
    return {"other" if INPUT[0] < 0 else "taken": INPUT}
