"""Pipelines as states tell of them, in the form of the reference's messages."""

from __future__ import annotations

from typing import Any

from engine.cli import described
from engine.resources import Pipeline, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {name: p}\nspec:\n"


def told(spec: str) -> dict[str, Any]:
    found, _ = documents(HEAD + spec, "p.yaml")
    resource, problems = parse(found[0])
    assert isinstance(resource, Pipeline), problems
    return described.pipeline(resource, 3)


def test_what_is_not_set_is_left_out() -> None:
    assert told("  steps: [{name: a}]\n") == {
        "name": "p",
        "version": 3,
        "steps": [{"name": "a"}],
        "kubernetesMeta": {},
    }


def test_steps_are_told_by_name_with_their_references_completed() -> None:
    spec = "  steps: [{name: b, inputs: [a, p, p.inputs.x], triggers: [a.outputs.t]}, {name: a}]\n"
    assert told(spec)["steps"] == [
        {"name": "a"},
        {"name": "b", "inputs": ["a.outputs", "p.inputs", "p.inputs.x"], "triggers": ["a.outputs.t"]},
    ]


def test_joins_windows_and_batches_of_a_step_are_told() -> None:
    step = (
        "{name: b, inputs: [a], inputsJoinType: outer, triggers: [a], triggersJoinType: any, joinWindowMs: 5, "
        "tensorMap: {a.outputs.x: y}, batch: {size: 4, windowMs: 7}}"
    )
    assert told(f"  steps: [{{name: a}}, {step}]\n")["steps"][1] == {
        "name": "b",
        "inputs": ["a.outputs"],
        "joinWindowMs": 5,
        "tensorMap": {"a.outputs.x": "y"},
        "inputsJoin": "OUTER",
        "triggers": ["a.outputs"],
        "triggersJoin": "ANY",
        "batch": {"size": 4, "windowMs": 7},
    }


def test_an_output_tells_its_join() -> None:
    spec = "  steps: [{name: a}, {name: b}]\n  output: {steps: [a, b.outputs.y], stepsJoin: any, joinWindowMs: 9}\n"
    assert told(spec)["output"] == {"steps": ["a.outputs", "b.outputs.y"], "joinWindowMs": 9, "stepsJoin": "ANY"}


def test_references_to_other_pipelines_are_completed() -> None:
    spec = (
        "  steps: [{name: a}]\n  input:\n    externalInputs: [q, q.inputs, q.step.s, q.step.s.outputs.x]\n"
        "    externalTriggers: [r]\n    joinType: any\n    triggersJoinType: outer\n"
    )
    assert told(spec)["input"] == {
        "externalInputs": ["q.outputs", "q.inputs", "q.step.s.outputs", "q.step.s.outputs.x"],
        "externalTriggers": ["r.outputs"],
        "joinType": "ANY",
        "triggersJoin": "OUTER",
    }


def test_what_concerns_the_whole_pipeline_is_told_when_it_is_set() -> None:
    spec = "  steps: [{name: a}]\n  allowCycles: true\n  maxStepRevisits: 3\n  dataflow: {cleanTopicsOnDelete: true}\n"
    found = told(spec)
    assert (found["allowCycles"], found["maxStepRevisits"]) == (True, 3)
    assert found["dataflow"] == {"cleanTopicsOnDelete": True}
