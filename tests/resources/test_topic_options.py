from __future__ import annotations

import pytest

from engine.resources import Problem, Resource, TopicOptions, documents, parse

SPECS = {
    "Model": "{storageUri: m}",
    "Pipeline": "{steps: [{name: m}]}",
    "Experiment": "{candidates: [{name: m, weight: 1}]}",
}


def parsed(annotations: str, kind: str = "Pipeline") -> tuple[Resource | None, list[Problem]]:
    head = f"apiVersion: mlops.seldon.io/v1alpha1\nkind: {kind}\nmetadata:\n  name: x\n"
    text = f"{head}  annotations:\n    {annotations}\nspec: {SPECS[kind]}\n"
    found, faults = documents(text, "x.yaml")
    assert faults == []
    return parse(found[0])


def options(annotations: str, kind: str = "Pipeline") -> TopicOptions:
    resource, problems = parsed(annotations, kind)
    assert problems == []
    assert resource is not None
    return resource.metadata.topic_options


@pytest.mark.parametrize("kind", ["Model", "Pipeline"])
def test_what_is_asked_for_topics_stands_in_annotations_with_kafkas_names(kind: str) -> None:
    written = (
        '{kafka.seldon.io/retention.ms: "60000", kafka.seldon.io/compression.type: zstd, other.io/retention.ms: x}'
    )
    assert options(written, kind) == TopicOptions(60000, "zstd", 0)
    assert options('kafka.seldon.io/replication.factor: "3"', kind) == TopicOptions(replication_factor=3)


def test_records_may_stay_for_ever() -> None:
    assert options('kafka.seldon.io/retention.ms: "-1"').configs == {"retention.ms": "-1"}


def test_nothing_is_asked_for_where_nothing_is_written() -> None:
    assert options("a: b") == TopicOptions()
    assert TopicOptions().configs == {}


def test_what_a_resource_asks_for_goes_before_what_others_ask_for() -> None:
    assert TopicOptions(5, "", 3) | TopicOptions(7, "lz4", 1) == TopicOptions(5, "lz4", 3)


@pytest.mark.parametrize(
    ("written", "place", "message"),
    [
        (
            'kafka.seldon.io/retention.ms: "soon"',
            "x.yaml:6:36",
            '"kafka.seldon.io/retention.ms" must be a whole number of milliseconds, or -1 for ever, not "soon"',
        ),
        (
            'kafka.seldon.io/retention.ms: "0"',
            "x.yaml:6:36",
            '"kafka.seldon.io/retention.ms" must be a whole number of milliseconds, or -1 for ever, not "0"',
        ),
        (
            'kafka.seldon.io/replication.factor: "-1"',
            "x.yaml:6:42",
            '"kafka.seldon.io/replication.factor" must be a whole number from 1 to 32767, not "-1"',
        ),
        (
            'kafka.seldon.io/compression.type: ""',
            "x.yaml:6:40",
            '"kafka.seldon.io/compression.type" must be producer, uncompressed, gzip, snappy, lz4 or zstd, not ""',
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_its_place(written: str, place: str, message: str) -> None:
    resource, [problem] = parsed(written)
    assert resource is None
    assert (str(problem.place), problem.message) == (place, f"the pipeline: {message}")


def test_a_misspelt_annotation_is_refused_with_the_nearest() -> None:
    _, [problem] = parsed('kafka.seldon.io/retention: "60000"')
    assert str(problem.place) == "x.yaml:6:5"
    assert problem.message == 'the pipeline has an unknown annotation "kafka.seldon.io/retention"'
    assert problem.hint == 'did you mean "kafka.seldon.io/retention.ms"?'


def test_a_number_of_partitions_of_its_own_is_refused_with_the_reason() -> None:
    _, [problem] = parsed('kafka.seldon.io/partitions: "3"')
    assert problem.message == "the pipeline cannot have a number of partitions of its own"
    assert "a request keeps its partition from topic to topic" in problem.hint


def test_an_experiment_has_no_topics_to_ask_anything_for() -> None:
    resource, [problem] = parsed('kafka.seldon.io/retention.ms: "60000"', "Experiment")
    assert resource is None
    assert str(problem.place) == "x.yaml:5:3"
    assert problem.message == 'experiment "x" has no topics of its own, and asks something of them'
