"""State that a newer release wrote: a worker leaves its pipeline to that release, and says so."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition
from product import Product, seldon, wait_until
from resource_files import copy, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Said
    from topics import Kafka

    SeldonUp = Callable[..., Product]

SAME = "def model(INPUT):\n    return {'OUTPUT': INPUT}\n"
JOIN = """\
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: joined}
spec:
  input: {externalInputs: [numbers.outputs, extras.outputs], joinWindowMs: 1000}
  steps: [{name: number}]
  output: {steps: [number]}
"""

FAILED = 30.0


@pytest.fixture
def state(broker: str, namespace: str) -> Callable[[str], tuple[str, str]]:
    """State and reason of a pipeline."""

    def ask(pipeline: str) -> tuple[str, str]:
        flags = ("--kafka-broker", broker, "--namespace", namespace)
        said: Said = seldon("pipeline", "status", pipeline, *flags)
        assert said.code == 0, said
        [version] = json.loads(said.out)["versions"]
        return version["state"]["status"], version["state"].get("reason", "")

    return ask


def test_entries_of_a_join_that_a_newer_release_wrote_are_left_to_it(
    seldon_up: SeldonUp, kafka: Kafka, namespace: str, state: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    copy(path, model="extra", pipeline="extras")
    path.write_text(path.read_text() + JOIN)
    seldon_up("worker", path.parent).start().stop()
    head = json.dumps({"format": 2}).encode()
    entry = struct.pack(">I", len(head)) + head
    changelog = f"seldon.{namespace}.pipeline.joined.joins"
    kafka.send_many(changelog, [(entry, f"{number} key-{number}".encode(), []) for number in range(20)])
    worker = seldon_up("worker", path.parent).start()
    wait_until(lambda: state("joined")[0] == "PipelineFailed", lambda: f"{state('joined')}\n{worker.said}", FAILED)
    reason = state("joined")[1]
    assert "written by a newer release, in format 2, and this one reads none above 1" in reason
    assert changelog in reason
    assert [state(name)[0] for name in ("numbers", "extras")] == ["PipelineReady", "PipelineReady"]
    worker.stop()


@pytest.mark.parametrize("broker", ["kafka"], indirect=True)  # the embedded broker keeps nothing beside an offset
def test_offsets_that_a_newer_release_committed_are_left_to_it(
    seldon_up: SeldonUp, broker: str, namespace: str, state: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    copy(path, model="extra", pipeline="extras")
    seldon_up("worker", path.parent).start().stop()
    group, topic = f"seldon.{namespace}.pipeline.numbers", f"seldon.{namespace}.pipeline.numbers.inputs"
    newer = [TopicPartition(topic, number, 0, "2;somebody;7;in another way") for number in range(2)]
    client = Consumer({"bootstrap.servers": broker, "group.id": group})
    client.commit(offsets=newer, asynchronous=False)
    worker = seldon_up("worker", path.parent).start()
    wait_until(lambda: state("numbers")[0] == "PipelineFailed", lambda: f"{state('numbers')}\n{worker.said}", FAILED)
    assert "written by a newer release, in format 2" in state("numbers")[1]
    assert state("extras")[0] == "PipelineReady"
    kept = client.committed(newer, timeout=10)
    client.close()
    assert [each.metadata for each in kept] == [each.metadata for each in newer]
    worker.stop()
