"""Models whose tensors, values and errors hold markup and characters that cannot be seen."""

import numpy as np

MARKUP = "<img src=x onerror=window.hacked=1>"
BIDI = "abc\u202edef\u0007"


def answer(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803  the tensor's name
    """Markup as a tensor's name, and both as values; a tensor of a million values."""
    words = np.array([MARKUP.encode(), BIDI.encode()], dtype=object)
    return {MARKUP: INPUT, "WORDS": words, "LARGE": np.arange(1_000_000, dtype=np.float32)}


def fail(INPUT: np.ndarray) -> dict[str, np.ndarray]:  # noqa: N803, ARG001  the tensor's name
    """An error with both."""
    raise ValueError(f"{MARKUP} and {BIDI}")
