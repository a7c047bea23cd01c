"""Resources that are loaded, swapped and unloaded at random under load: row 36."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from swapping import Swaps

if TYPE_CHECKING:
    import random

    from scene import Scene

SECONDS = float(os.environ.get("SWAP_SECONDS") or 300)


# CI runs a shorter form of it, tests/broker/test_swapping.py.
@pytest.mark.row(36)
@pytest.mark.timeout(1200)
def test_resources_that_come_change_and_go_cost_no_request_and_no_neighbour_anything(
    scene: Scene, chance: random.Random
) -> None:
    swaps = Swaps(scene.kafka.address, scene.namespace, scene.make, scene.folder, chance)
    swaps.prove(SECONDS)
    changes = sum(len(times) for times in swaps.away.values())
    scene.figures.update(requests=swaps.requests, lost=0, duplicated=0, swaps=len(swaps.story), unloads=changes)
