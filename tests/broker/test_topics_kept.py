"""Topics that are made as they are asked for, listed with what stands on them, and deleted with what they were for."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic
from product import infer, inputs, message, seldon, wait_until
from resource_files import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product, Said
    from topics import Kafka

SAME = "def model(INPUT):\n    return {'OUTPUT': INPUT}\n"
SECONDS = 30.0


@pytest.fixture
def admin(broker: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker, "log_level": 0})


@pytest.fixture
def command(broker: str, namespace: str) -> Callable[..., Said]:
    """Runs `seldon ...` against the test's broker and namespace."""

    def run(*arguments: object) -> Said:
        done = seldon(*arguments, "--kafka-broker", broker, "--namespace", namespace)
        assert done.code == 0, done
        return done

    return run


@pytest.fixture
def there(admin: AdminClient, namespace: str) -> Callable[[], set[str]]:
    """The topics of the test's namespace that belong to a resource, without prefix and namespace."""
    begin = f"seldon.{namespace}."
    kinds = ("model.", "pipeline.")

    def topics() -> set[str]:
        names = {name.removeprefix(begin) for name in admin.list_topics(timeout=10).topics if name.startswith(begin)}
        return {name for name in names if name.startswith(kinds)}

    return topics


def both(owner: str) -> set[str]:
    return {f"{owner}.inputs", f"{owner}.outputs"}


def cleaned(path: Path, *, pipeline: bool = True, model: bool = False) -> Path:
    """The file, with `cleanTopicsOnDelete` for its pipeline, its model, or both."""
    section = "spec:\n  dataflow: {cleanTopicsOnDelete: true}\n"
    texts = path.read_text().split("---\n")
    for index, wanted in enumerate((model, pipeline)):
        if wanted:
            texts[index] = texts[index].replace("spec:\n", section)
    path.write_text("---\n".join(texts))
    return path


def annotated(path: Path, annotations: str) -> Path:
    """The file, with annotations for its pipeline."""
    path.write_text(
        path.read_text().replace("  name: numbers\n", f"  name: numbers\n  annotations: {{{annotations}}}\n")
    )
    return path


def answered(product: Product, number: int) -> bool:
    return infer(product.address, "pipelines/numbers", inputs(INPUT=[number])).output("OUTPUT") == [number]


def configs(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result(20).items()}


def test_a_pipelines_topics_go_with_it_where_it_says_so_and_those_of_its_model_stay(
    seldon_up: Callable[..., Product],
    command: Callable[..., Said],
    there: Callable[[], set[str]],
    tmp_path: Path,
) -> None:
    path = cleaned(write(tmp_path / "files", SAME))
    product = seldon_up("up", path).start()
    seldon_up("worker", path).start()
    assert all(answered(product, number) for number in range(3))
    command("pipeline", "unload", "numbers")
    wait_until(lambda: there() == both("model.number"), lambda: f"no topics of the pipeline in {there()}", SECONDS)
    command("load", "-f", path)
    command("pipeline", "status", "numbers", "-w", "PipelineReady", "-t", 20)
    # As many as before and one more: none is passed over as if it had been read.
    assert all(answered(product, number) for number in range(4))


def test_topics_stay_where_nothing_says_that_they_go(
    seldon_up: Callable[..., Product],
    command: Callable[..., Said],
    there: Callable[[], set[str]],
    tmp_path: Path,
) -> None:
    seldon_up("up", cleaned(write(tmp_path / "files", SAME), pipeline=False, model=True)).start()
    command("pipeline", "unload", "numbers")
    command("model", "unload", "number")
    wait_until(lambda: there() == both("pipeline.numbers"), lambda: f"only the pipeline's in {there()}", SECONDS)


def test_a_models_topics_stay_as_long_as_a_pipeline_has_it_as_a_step(
    seldon_up: Callable[..., Product],
    command: Callable[..., Said],
    there: Callable[[], set[str]],
    tmp_path: Path,
) -> None:
    path = cleaned(write(tmp_path / "files", SAME), model=True)
    second = tmp_path / "files" / "second.yaml"
    second.write_text(path.read_text().split("---\n")[1].replace("numbers", "second"))
    seldon_up("up", path, second).start()
    command("model", "unload", "number")
    # Those of the pipeline go, after a look at those of the model, which were to go before.
    command("pipeline", "unload", "numbers")
    kept = both("model.number") | both("pipeline.second")
    wait_until(lambda: there() == kept, lambda: f"the model's and the second pipeline's in {there()}", SECONDS)
    command("pipeline", "unload", "second")
    wait_until(lambda: not there(), lambda: f"nothing left of {there()}", SECONDS)


def test_topics_go_without_a_worker_too(
    seldon_up: Callable[..., Product],
    command: Callable[..., Said],
    there: Callable[[], set[str]],
    tmp_path: Path,
) -> None:
    path = cleaned(write(tmp_path / "files", SAME), model=True)
    product = seldon_up("worker", path).start()
    product.stop()
    command("unload", "-f", path)
    assert there() == set()


def test_topics_are_made_as_settings_and_annotations_ask(
    seldon_up: Callable[..., Product], admin: AdminClient, namespace: str, tmp_path: Path
) -> None:
    path = annotated(write(tmp_path / "files", SAME), '"kafka.seldon.io/retention.ms": "7200000"')
    settings = {"SELDON_KAFKA_TOPIC_RETENTION_MS": "3600000", "SELDON_KAFKA_TOPIC_COMPRESSION_TYPE": "lz4"}
    product = seldon_up("up", path, settings=settings).start()
    assert answered(product, 1)
    for topic, retention in (("pipeline.numbers.outputs", "7200000"), ("model.number.inputs", "3600000")):
        found = configs(admin, f"seldon.{namespace}.{topic}")
        assert (found["retention.ms"], found["compression.type"]) == (retention, "lz4")
    assert "is asked for" not in product.err


def test_a_topic_that_is_otherwise_is_left_alone_and_told_on_one_line(
    seldon_up: Callable[..., Product], admin: AdminClient, namespace: str, tmp_path: Path
) -> None:
    topic = f"seldon.{namespace}.pipeline.numbers.inputs"
    made = NewTopic(topic, 2, 1, config={"retention.ms": "60000"})
    admin.create_topics([made])[topic].result(20)
    path = annotated(write(tmp_path / "files", SAME), '"kafka.seldon.io/retention.ms": "-1"')
    product = seldon_up("up", path).start()
    assert answered(product, 1)
    [line] = [line for line in product.err.splitlines() if "is asked for" in line]
    assert f"topic {topic} has retention.ms=60000, and -1 is asked for" in line
    assert configs(admin, topic)["retention.ms"] == "60000"


def test_a_topic_that_the_broker_refuses_fails_its_pipeline_with_the_brokers_reason_and_no_other(
    seldon_up: Callable[..., Product],
    kafka_broker: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    path = annotated(write(tmp_path / "files", SAME), '"kafka.seldon.io/replication.factor": "3"')
    other = tmp_path / "files" / "other.yaml"
    other.write_text(path.read_text().split("---\n")[1].replace("numbers", "other").replace('"3"', '"1"'))
    product = seldon_up("up", path, other, kafka_broker=kafka_broker).start()
    done = seldon("pipeline", "list", "--kafka-broker", kafka_broker, "--namespace", namespace)
    assert re.search(
        r"numbers\s+PipelineFailed\s+the broker refused to create topic \S+numbers.\S+: .*replication", done.out
    )
    assert infer(product.address, "pipelines/other", inputs(INPUT=[1])).output("OUTPUT") == [1]


def listed(command: Callable[..., Said], *arguments: str) -> dict[str, Any]:
    found = json.loads(command("topics", "list", "-o", "json", *arguments).out)
    return {row["topic"].split(".", 2)[2] if len(row["topic"].split(".")) > 2 else row["topic"]: row for row in found}


def test_topics_are_listed_with_what_stands_on_them_and_who_is_behind(
    seldon_up: Callable[..., Product],
    command: Callable[..., Said],
    kafka: Kafka,
    broker: str,
    namespace: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    product = seldon_up("up", write(tmp_path / "files", SAME)).start()
    assert all(answered(product, number) for number in range(3))
    group = f"seldon.{namespace}.pipeline.numbers"
    wait_until(
        lambda: listed(command)["pipeline.numbers.inputs"]["lag"] == {group: 0},
        lambda: f"the pipeline has read all in {listed(command)}",
        SECONDS,
    )
    product.stop()
    topic = f"{group}.inputs"
    kafka.send_many(topic, [(message(INPUT=[1]).SerializeToString(), b"k", []) for _ in range(5)])
    row = listed(command)["pipeline.numbers.inputs"]
    is_kafka = request.node.callspec.params["broker"] == "kafka"
    assert (row["partitions"], row["replicas"], row["records"], row["lag"]) == (2, 1, 8, {group: 5})
    assert row["bytes"] > 8 * 20 if is_kafka else row["bytes"] is None
    lines = command("topics", "list").out.splitlines()
    assert [word.strip() for word in lines[0].split("\t")] == ["topic", "partitions", "records", "size", "lag"]
    [line] = [line for line in lines if line.startswith(topic)]
    assert line.endswith("pipeline.numbers 5")
    everywhere = seldon("topics", "list", "-A", "-o", "yaml", "--kafka-broker", broker)
    assert topic in everywhere.out


def test_a_namespace_without_topics_has_an_empty_list(command: Callable[..., Said]) -> None:
    assert json.loads(command("topics", "list", "-o", "json").out) == []
