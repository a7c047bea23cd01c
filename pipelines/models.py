"""The Python models of the sample pipelines: functions from numpy arrays to numpy arrays."""

import re
import time

import numpy as np


def add_sub(INPUT0: np.ndarray, INPUT1: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensors' names
    """Sum and difference of two tensors."""
    return {"OUTPUT0": INPUT0 + INPUT1, "OUTPUT1": INPUT0 - INPUT1}


def measure(flower: np.ndarray) -> dict[str, np.ndarray]:
    """Iris measurements in millimetres, [rows, 4], as the centimetres that the classifier was trained on."""
    return {"predict": (flower / 10).astype(np.float32)}


def choose(INPUT0: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Small totals leave as `small`, large ones as `large`: a step that wants the other one does not run."""
    return {"small" if INPUT0.sum() < 100 else "large": INPUT0}  # noqa: PLR2004  an example's threshold


def add10(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Ten more."""
    return {"OUTPUT": INPUT + 10}


def mul10(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Ten times as much."""
    return {"OUTPUT": INPUT * 10}


def late_mul10(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Ten times as much, a second later."""
    time.sleep(1)
    return {"OUTPUT": INPUT * 10}


def either(QUICK: np.ndarray | None = None, LATE: np.ndarray | None = None) -> dict[str, np.ndarray]:  # noqa: N803
    """The sum of what there is."""
    return {"OUTPUT": sum(tensor for tensor in (QUICK, LATE) if tensor is not None)}


def total(OUTPUT0: np.ndarray, OUTPUT1: np.ndarray, TENFOLD: np.ndarray, SEEN: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803
    """The sum of four tensors, each of another source."""
    return {"TOTAL": OUTPUT0 + OUTPUT1 + TENFOLD + SEEN}


def count(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """One more; `more` says that it is under five, `enough` that it is not."""
    counted = INPUT + 1
    return {"OUTPUT": counted, "more" if counted.max() < 5 else "enough": np.ones(1, np.int32)}  # noqa: PLR2004


def same(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """What came in."""
    return {"OUTPUT": INPUT}


# What each word says of the mood of a text; a negation before it turns it round.
WORDS = {"good": 1.0, "great": 2.0, "love": 2.0, "bad": -1.0, "boring": -1.5, "awful": -2.0}
NEGATIONS = {"not", "never", "no"}


def mood(text: np.ndarray) -> dict[str, np.ndarray]:
    """The mood of each text, from 0 (bad) to 1 (good)."""
    return {"mood": np.array([1 / (1 + np.exp(-_score(each.decode()))) for each in text.reshape(-1)])}


def _score(text: str) -> float:
    words = re.findall(r"\w+", text.lower())
    turned = (-1.0 if before in NEGATIONS else 1.0 for before in ["", *words])
    return sum(WORDS.get(word, 0.0) * sign for word, sign in zip(words, turned, strict=False))
