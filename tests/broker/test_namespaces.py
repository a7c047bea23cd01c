"""Two namespaces on one broker, with the same names in both: neither sees the other's records or answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from product import infer, inputs, message, seldon, values
from resource_files import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product
    from topics import Headers, Kafka


def test_namespaces_with_the_same_names_do_not_meet(
    seldon_up: Callable[..., Product], kafka: Kafka, namespace: str, tmp_path: Path, request_id: str
) -> None:
    other = f"{namespace}-mesh"
    plus = write(tmp_path / "plus", "def model(INPUT):\n    return {'OUTPUT': INPUT + 1}\n")
    times = write(tmp_path / "times", "def model(INPUT):\n    return {'OUTPUT': INPUT * 100}\n")
    first, second = seldon_up("up", plus).launch(), seldon_up("up", times, namespace=other).launch()
    first.wait_ready()
    second.wait_ready()
    for _ in range(3):
        assert infer(first.address, "pipelines/numbers", inputs(INPUT=[7])).output("OUTPUT") == [8]
        assert infer(second.address, "pipelines/numbers", inputs(INPUT=[7])).output("OUTPUT") == [700]
    outputs = [f"seldon.{name}.pipeline.numbers.outputs" for name in (namespace, other)]
    headers: Headers = [("x-request-id", request_id.encode())]
    with kafka.tap(*outputs, *(f"seldon.{name}.model.number.outputs" for name in (namespace, other))) as tap:
        value = message(INPUT=[1]).SerializeToString()
        kafka.send(f"seldon.{namespace}.pipeline.numbers.inputs", value, headers=headers, partition=0)
        tap.of(request_id, 2)
        # What the other namespace had made of the first record would stand before what it makes of this one.
        kafka.send(f"seldon.{other}.pipeline.numbers.inputs", value, headers=headers, partition=0)
        found = tap.of(request_id, 4)
    answers = {record.topic: values(record.response, "OUTPUT") for record in found if record.topic in outputs}
    assert answers == {outputs[0]: [2], outputs[1]: [100]}
    assert len(found) == 4, found
    # What is unloaded in one stays in the other.
    done = seldon("pipeline", "unload", "numbers", "--kafka-broker", kafka.address, "--namespace", other)
    assert done.code == 0, done
    listed = seldon("pipeline", "list", "--kafka-broker", kafka.address, "--namespace", namespace)
    assert "PipelineReady" in listed.out, listed
    first.stop()
    second.stop()
