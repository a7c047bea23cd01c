from __future__ import annotations

from engine.kafka import needs
from engine.kafka.cleaning import to_clean
from engine.protocol.record import Owner, Topics
from engine.resources import Model, Resource, TopicOptions, documents, parse

TOPICS = Topics("s", "n")


def made(kind: str, name: str, spec: str, annotations: str = "{}") -> Resource:
    head = (
        f"apiVersion: mlops.seldon.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, annotations: {annotations}}}\n"
    )
    found, problems = parse(documents(f"{head}spec: {spec}\n", "r.yaml")[0][0])
    assert found is not None, problems
    return found


def both(owner: str) -> set[str]:
    return {f"s.n.{owner}.inputs", f"s.n.{owner}.outputs"}


MODEL = made("Model", "m", "{storageUri: 'python:a:b'}")
EXPLAINER = made("Model", "e", "{explainer: {type: kernel_shap, modelRef: m}}")
PIPELINE = made("Pipeline", "p", "{steps: [{name: m}], output: {steps: [m]}}")
FED = made("Pipeline", "fed", "{input: {externalInputs: [p.outputs]}, steps: [{name: k}]}")
JOINS = made("Pipeline", "joins", "{input: {externalInputs: [p.outputs, fed.inputs]}, steps: [{name: k}]}")
EXPERIMENT = made("Experiment", "x", "{candidates: [{name: m, weight: 1}]}")


def test_a_resource_has_two_topics_an_explainer_four_and_an_experiment_none() -> None:
    assert set(needs.own(TOPICS, MODEL)) == both("model.m")
    assert set(needs.own(TOPICS, PIPELINE)) == both("pipeline.p")
    assert set(needs.own(TOPICS, EXPLAINER)) == both("model.e") | both("explainer.e")
    assert needs.own(TOPICS, EXPERIMENT) == []


def test_a_pipeline_needs_those_of_its_steps_and_of_what_feeds_it() -> None:
    assert set(needs.needed(TOPICS, PIPELINE)) == both("pipeline.p") | both("model.m")
    assert set(needs.needed(TOPICS, FED)) == both("pipeline.fed") | both("model.k") | {"s.n.pipeline.p.outputs"}


def test_a_model_is_called_on_one_topic_and_an_explainer_on_two() -> None:
    models = [each for each in (MODEL, EXPLAINER) if isinstance(each, Model)]
    assert needs.calls(TOPICS, models) == {
        "s.n.model.m.inputs": (Owner.MODEL, "m"),
        "s.n.model.e.inputs": (Owner.MODEL, "e"),
        "s.n.explainer.e.inputs": (Owner.EXPLAINER, "e"),
    }


def test_only_a_pipeline_that_joins_has_a_changelog() -> None:
    assert needs.joins(TOPICS, JOINS) == ["s.n.pipeline.joins.joins"]
    assert [needs.joins(TOPICS, each) for each in (FED, PIPELINE, MODEL, EXPERIMENT)] == [[], [], [], []]


def test_a_topic_is_as_its_own_resource_asks_and_not_as_those_that_use_it() -> None:
    asking = made("Pipeline", "p", "{steps: [{name: m}]}", '{kafka.seldon.io/retention.ms: "5"}')
    found = needs.options(TOPICS, [asking, MODEL])
    assert {name for name, each in found.items() if each == TopicOptions(5)} == both("pipeline.p")
    assert {name for name, each in found.items() if each == TopicOptions()} == both("model.m")


def test_what_nobody_else_needs_goes_with_its_resource_and_its_changelog() -> None:
    assert set(to_clean(TOPICS, JOINS, [PIPELINE, FED, MODEL])) == {*both("pipeline.joins"), "s.n.pipeline.joins.joins"}


def test_what_a_step_or_another_pipeline_needs_stays_with_all_of_its_resource() -> None:
    assert to_clean(TOPICS, MODEL, [PIPELINE]) == []
    assert to_clean(TOPICS, PIPELINE, [MODEL, FED]) == []
    assert set(to_clean(TOPICS, PIPELINE, [MODEL, EXPERIMENT])) == both("pipeline.p")
