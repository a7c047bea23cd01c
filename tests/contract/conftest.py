"""A product whose models give back what they are given, and the processes of clients that call it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# As in tests/conftest.py: modules beside this file, and those of the broker tests, have to be put in reach.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "broker"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from mirror import Mirror
from product import Product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESOURCES = Path(__file__).resolve().parent / "resources"
NAMESPACE = "contract"


@pytest.fixture(scope="module")
def identity(embedded_broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """`seldon up` with identity models and chains of them: call it, do not stop it."""
    folder = tmp_path_factory.mktemp("identity")
    with Mirror() as mirror:
        remote = folder / "mirror.yaml"
        remote.write_text(mirror.resources)
        product = Product(
            folder, "up", RESOURCES, remote, "--kafka-broker", embedded_broker, "--listen", "127.0.0.1:0",
            "--namespace", NAMESPACE, "--partitions", "2",
        )  # fmt: skip
        try:
            yield product.start()
            product.stop()
        finally:
            product.kill()


@pytest.fixture(scope="session")
def topic() -> Callable[..., str]:
    """Topic names of that product: `topic("pipeline", "sames", "inputs")`."""
    return lambda *parts: ".".join(("seldon", NAMESPACE, *parts))
