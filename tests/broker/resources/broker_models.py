"""Models of the broker tests: each does one thing that a test looks at."""

import time

import numpy as np

from engine.errors import InvalidInput

UNLUCKY = 13


def echo(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """What came, as it came."""
    return {"OUTPUT": INPUT}


def slow(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """What came, after as many milliseconds as its first number says."""
    time.sleep(INPUT.flat[0] / 1000)
    return {"OUTPUT": INPUT}


def refuse(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Refuses thirteens: the request is at fault."""
    if UNLUCKY in INPUT:
        raise InvalidInput("thirteen is refused")
    return {"OUTPUT": INPUT}


def explode(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Fails at thirteens: the model is at fault."""
    if UNLUCKY in INPUT:
        raise ValueError("thirteen blew up")
    return {"OUTPUT": INPUT}


def pick(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Small numbers as `small`, others as `large`."""
    return {"small" if INPUT.sum() < 100 else "large": INPUT}


def shout(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Text in capitals, and beside it the bytes as they came."""
    return {"TEXT": np.array([element.decode("latin-1").upper() for element in INPUT.flat]), "BYTES": INPUT}


def grow(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """As many numbers as its first number says."""
    return {"OUTPUT": np.ones(INPUT.flat[0], np.int32)}
