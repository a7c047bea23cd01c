"""Products that run on a broker: one for all tests that only call it, fresh ones for tests that stop them."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# As in tests/conftest.py: modules beside this file have to be put in reach.
sys.path.insert(0, str(Path(__file__).parent))

from product import RESOURCES, SAMPLES, Product
from topics import Kafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The namespace of the seed's calls.
SHARED_NAMESPACE = "default"
# A new topic costs Apache Kafka a few ms for each of its partitions, and there are fifty topics.
PARTITIONS = 4
# The embedded broker takes half a session to let a lone member in, and a killed member's partitions wait a whole one.
SESSION_SECONDS = "2"


@pytest.fixture(scope="session")
def shared_product(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """`seldon up` with all samples and the tests' own resources; it ends before one on the next broker starts."""
    product = Product(
        tmp_path_factory.mktemp("product"), "up", SAMPLES, RESOURCES, "--kafka-broker", broker,
        "--listen", "127.0.0.1:0", "--namespace", SHARED_NAMESPACE, "--partitions", PARTITIONS,
    )  # fmt: skip
    try:
        yield product.start()
        product.stop()
    finally:
        product.kill()


@pytest.fixture
def product(shared_product: Product) -> Product:
    """A running product that all tests of a broker share: call it, do not stop it."""
    assert shared_product.running, (
        f"the product has ended with {shared_product.process.returncode}\n{shared_product.said}"
    )
    return shared_product


@pytest.fixture
def kafka(broker: str) -> Iterator[Kafka]:
    """An independent client of the broker."""
    with Kafka(broker) as client:
        yield client


@pytest.fixture
def seldon_up(broker: str, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Product]]:
    """Makes processes in this test's own namespace: `seldon_up("worker", PATH, ...)`; what still runs is killed."""
    made: list[Product] = []

    def make(part: str, *arguments: Any, settings: dict[str, str] | None = None, **flags: Any) -> Product:
        named = {"namespace": namespace, "kafka_broker": broker, "partitions": 2, **flags}
        if part in ("up", "gateway"):
            named.setdefault("listen", "127.0.0.1:0")
        options = [
            word
            for flag, value in named.items()
            if value is not None
            for word in (f"--{flag.replace('_', '-')}", value)
        ]
        environment = {"SELDON_SESSION_TIMEOUT": SESSION_SECONDS, **(settings or {})}
        product = Product(tmp_path / f"process-{len(made)}", part, *arguments, *options, settings=environment)
        made.append(product)
        return product

    yield make
    for product in made:
        product.kill()


@pytest.fixture
def request_id() -> str:
    """An id that no other request has."""
    return f"test-{secrets.token_hex(8)}"


@pytest.fixture
def topic() -> Callable[..., str]:
    """Topic names of the shared product: `topic("model", "iris", "inputs")`."""
    return lambda *parts: ".".join(("seldon", SHARED_NAMESPACE, *parts))
