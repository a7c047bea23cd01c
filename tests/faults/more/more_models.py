"""More models of the fault suite."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUSY_SECONDS = 40.0


def busy(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803  the tensor's name
    """The next number; a zero takes forty seconds of Python that holds the interpreter's lock."""
    if not INPUT.any():
        until = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < until:
            pass
    return {"INPUT": INPUT + 1}


def mortal(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803
    """The next number, after a while in which this process may be killed; 35 of every fifty kills it itself."""
    if int(INPUT.flat[0]) % 50 == 35:
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(0.01)
    return {"INPUT": INPUT + 1}


def same(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803
    """The number itself."""
    return {"INPUT": INPUT}


def add(LEFT: NDArray[np.int32], RIGHT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803
    """The sum."""
    return {"INPUT": LEFT + RIGHT}


def either(
    LEFT: NDArray[np.int32] | None = None,  # noqa: N803
    RIGHT: NDArray[np.int32] | None = None,  # noqa: N803
) -> dict[str, NDArray[np.int32]]:
    """What there is, one beside the other."""
    return {"INPUT": np.concatenate([side for side in (LEFT, RIGHT) if side is not None], axis=1)}


def turn(INPUT: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:  # noqa: N803
    """The next number; `enough` says that it ends in zero, `more` that it does not. 35 of every fifty is poison."""
    if int(INPUT.flat[0]) % 50 == 35:
        raise ValueError("poison")
    turned = INPUT + 1
    return {"INPUT": turned, "more" if turned.flat[0] % 10 else "enough": INPUT}
