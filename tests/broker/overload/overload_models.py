"""A model that takes as long as it is told to, so that a test knows what is ten times too much."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECONDS = float(os.environ.get("OVERLOAD_MODEL_SECONDS", "0"))


def slow(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803  the tensor's name
    """The next number, after a while."""
    time.sleep(SECONDS)
    return {"INPUT": INPUT + 1}
