"""Which guarantee holds on which broker, and settings that no broker could keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from product import RESOURCES, Product

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = 2


@pytest.fixture
def worker(namespace: str, tmp_path: Path) -> Any:
    """Makes a worker that is ended with the test: `worker(broker, flags, **environment)`."""
    made: list[Product] = []

    def make(broker: str, *flags: str, **settings: str) -> Product:
        options = ("--kafka-broker", broker, "--namespace", namespace, "--partitions", "1", *flags)
        made.append(Product(tmp_path / f"process-{len(made)}", "worker", RESOURCES, *options, settings=settings))
        return made[-1].launch()

    yield make
    for product in made:
        product.kill()


Make = "Callable[..., Product]"


def test_kafka_gives_exactly_once_and_says_so(worker: Make, kafka_broker: str) -> None:
    assert ", exactly_once;" in worker(kafka_broker).wait_ready().out


def test_less_may_be_asked_for(worker: Make, kafka_broker: str) -> None:
    assert ", at_least_once;" in worker(kafka_broker, "--processing-guarantee", "at_least_once").wait_ready().out


def test_the_embedded_broker_gives_at_least_once_and_says_so(worker: Make, embedded_broker: str) -> None:
    assert ", at_least_once;" in worker(embedded_broker).wait_ready().out


def test_exactly_once_is_refused_where_it_cannot_be_kept(worker: Make, embedded_broker: str) -> None:
    product = worker(embedded_broker, "--processing-guarantee", "exactly_once")
    assert product.wait() == REFUSED, product.said
    for told in (embedded_broker, "aborted", "use at_least_once, or Apache Kafka 3.0 or later"):
        assert told in product.err, product.said
    assert "Traceback" not in product.err, product.said


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SELDON_TRANSACTION_TIMEOUT": "3600"}, ("3600000 ms", "transaction.max.timeout.ms is 900000")),
        ({"SELDON_SESSION_TIMEOUT": "7200"}, ("7200000 ms", "group.max.session.timeout.ms is 1800000")),
        ({"SELDON_SESSION_TIMEOUT": "0.5"}, ("500 ms", "group.min.session.timeout.ms is 1000")),
    ],
)
def test_a_timeout_out_of_the_brokers_bounds_is_refused_with_both_numbers(
    worker: Make, kafka_broker: str, settings: dict[str, str], told: tuple[str, str]
) -> None:
    product = worker(kafka_broker, **settings)
    assert product.wait() == REFUSED, product.said
    assert all(part in product.err for part in told), product.said
