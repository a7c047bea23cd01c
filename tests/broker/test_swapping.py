"""Resources come, change and go under load: what `tests/faults/test_swaps.py` does for minutes, in half of one."""

from __future__ import annotations

import os
import random
import secrets
from typing import TYPE_CHECKING

import pytest
from swapping import Swaps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product

SEED = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))
SECONDS = 10.0


# What is doubled by a broker without transactions, and what it rebalances, is no fault of a swap.
@pytest.mark.parametrize("broker", ["kafka"], indirect=True)
@pytest.mark.timeout(240)
def test_resources_that_come_change_and_go_cost_no_request_and_no_neighbour_anything(
    broker: str, namespace: str, seldon_up: Callable[..., Product], tmp_path: Path
) -> None:
    swaps = Swaps(broker, namespace, seldon_up, tmp_path, random.Random(SEED))
    swaps.story.append(f"SEED={SEED}")
    swaps.prove(SECONDS)
