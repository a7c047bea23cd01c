"""A model that gives back what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def same(**tensors: np.ndarray) -> dict[str, np.ndarray]:
    """All tensors under their own names."""
    return tensors
