"""Topics that somebody deletes or grows under a running pipeline: it is told, and mended by loading again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from product import infer, inputs, seldon
from resource_files import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product

SAME = "def model(INPUT):\n    return {'OUTPUT': INPUT}\n"
STATE_SECONDS = "20"


@pytest.fixture
def admin(kafka_broker: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka_broker, "log_level": 0})


@pytest.fixture
def broker(kafka_broker: str) -> str:
    """Apache Kafka only: the embedded broker makes a topic again that is asked for by name."""
    return kafka_broker


@pytest.fixture
def wait_for(kafka_broker: str, namespace: str) -> Callable[[str], str]:
    """What is said when the pipeline has come to a state."""

    def wait(state: str) -> str:
        found = seldon(
            "pipeline", "status", "numbers", "-w", state, "-t", STATE_SECONDS,
            "--kafka-broker", kafka_broker, "--namespace", namespace,
        )  # fmt: skip
        assert found.code == 0, found
        return found.out

    return wait


def answered(product: Product, number: int) -> bool:
    return infer(product.address, "pipelines/numbers", inputs(INPUT=[number])).output("OUTPUT") == [number]


def test_a_pipeline_whose_topic_is_deleted_fails_with_the_reason_until_it_is_loaded_anew(
    seldon_up: Callable[..., Product],
    admin: AdminClient,
    wait_for: Callable[[str], str],
    broker: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "files", SAME)
    product = seldon_up("up", path).start()
    assert answered(product, 1)
    topic = f"seldon.{namespace}.pipeline.numbers.outputs"
    admin.delete_topics([topic])[topic].result(20)
    assert f"topic {topic} is gone" in wait_for("PipelineFailed")
    for command in ("unload", "load"):
        done = seldon(command, "-f", path, "--kafka-broker", broker, "--namespace", namespace)
        assert done.code == 0, done
    wait_for("PipelineReady")
    assert answered(product, 2)


def test_a_pipeline_whose_topic_is_grown_fails_with_both_numbers(
    seldon_up: Callable[..., Product],
    admin: AdminClient,
    wait_for: Callable[[str], str],
    namespace: str,
    tmp_path: Path,
) -> None:
    product = seldon_up("up", write(tmp_path / "files", SAME)).start()
    assert answered(product, 1)
    topic = f"seldon.{namespace}.pipeline.numbers.inputs"
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(20)
    assert f"topic {topic} has 3 partitions and the namespace 2" in wait_for("PipelineFailed")


def test_a_pipeline_whose_topic_is_made_again_by_somebody_goes_on(
    seldon_up: Callable[..., Product],
    admin: AdminClient,
    wait_for: Callable[[str], str],
    namespace: str,
    tmp_path: Path,
) -> None:
    product = seldon_up("up", write(tmp_path / "files", SAME)).start()
    topic = f"seldon.{namespace}.pipeline.numbers.inputs"
    admin.delete_topics([topic])[topic].result(20)
    wait_for("PipelineFailed")
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(20)
    wait_for("PipelineReady")
    assert answered(product, 1)
