"""kserve's own clients, from an environment of their own, call a model and a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import run

if TYPE_CHECKING:
    from product import Product

SCRIPT = Path(__file__).parent / "kserve_client.py"
INTEGERS = [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
DATATYPES = ["BOOL", "BYTES", "FP16", "FP32", "FP64", *INTEGERS]
ANSWERED = {f"{route} {datatype}": True for route in ("model", "pipeline") for datatype in DATATYPES}
REFUSAL = 'no model "none" is loaded'


@pytest.mark.parametrize(
    ("door", "told"),
    [
        ("rest", {"none": False, "error": [404, REFUSAL]}),
        ("grpc", {"error": ["NOT_FOUND", REFUSAL]}),
    ],
)
async def test_every_datatype_comes_back_with_its_bits(
    kserve_python: str, identity: Product, door: str, told: dict[str, object]
) -> None:
    said = json.loads(await run(kserve_python, "-W", "ignore", str(SCRIPT), door, identity.address))
    assert said == {"live": True, "ready": True, "model": True, "id": "7", **ANSWERED, **told}
