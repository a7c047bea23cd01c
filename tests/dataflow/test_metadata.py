from __future__ import annotations

from typing import Any

import pytest

from engine.dataflow.compiler import compile_pipeline
from engine.dataflow.metadata import derive
from engine.protocol.messages import ModelMetadataResponse
from engine.resources import Pipeline, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {name: p}\nspec:\n"

Tensor = tuple[str, str, list[int]]


def model(inputs: list[Tensor], outputs: list[Tensor]) -> Any:
    """What a model says of its tensors."""
    found = ModelMetadataResponse(name="of no importance")
    for items, tensors in ((found.inputs, inputs), (found.outputs, outputs)):
        for name, datatype, shape in tensors:
            items.add(name=name, datatype=datatype, shape=shape)
    return found


def derived(spec: str, **told: Any) -> tuple[list[Tensor], list[Tensor]]:
    """What a pipeline of this YAML takes and gives."""
    resource, problems = parse(documents(f"{HEAD}{spec}".encode(), "p.yaml")[0][0])
    assert isinstance(resource, Pipeline), problems
    plan, more = compile_pipeline(resource)
    assert plan is not None, more
    found = derive(plan, told)
    assert (found.name, found.platform) == ("p", "pipeline")
    inputs, outputs = ([(t.name, t.datatype, t.shape[:]) for t in items] for items in (found.inputs, found.outputs))
    return inputs, outputs


X: Tensor = ("x", "FP32", [-1, 4])
Y: Tensor = ("y", "INT64", [-1])
Z: Tensor = ("z", "BYTES", [1])
A_TO_B = "  steps: [{name: a}, {name: b, inputs: [a]}]\n  output: {steps: [b]}\n"


def test_a_chain_takes_what_its_first_step_takes_and_gives_what_its_last_gives() -> None:
    assert derived(A_TO_B, a=model([X], [Y]), b=model([Y], [Z])) == ([X], [Z])


def test_nothing_is_known_of_steps_that_say_nothing() -> None:
    assert derived(A_TO_B) == ([], [])
    assert derived(A_TO_B, a=model([], []), b=model([], [Z])) == ([], [Z])


def test_names_alone_are_told_without_datatypes() -> None:
    assert derived(A_TO_B, a=model([("x", "", [])], [])) == ([("x", "", [])], [])


def test_tensors_are_named_as_they_are_outside_of_renames() -> None:
    spec = """
  steps:
    - {name: a, tensorMap: {p.inputs.amount: x}}
  output: {steps: [a], tensorMap: {a.outputs.y: score}}
"""
    assert derived(spec, a=model([X], [Y, Z])) == ([("amount", *X[1:])], [("score", *Y[1:]), Z])


def test_tensors_that_references_name_are_known_though_no_model_says_so() -> None:
    spec = """
  steps:
    - {name: a, inputs: [p.inputs.first, p.inputs.second]}
  output: {steps: [a.outputs.third]}
"""
    assert derived(spec) == ([("first", "", []), ("second", "", [])], [("third", "", [])])


def test_only_the_outputs_that_are_chosen_are_given() -> None:
    spec = "  steps: [{name: a}]\n  output: {steps: [a.outputs.z]}\n"
    assert derived(spec, a=model([X], [Y, Z])) == ([X], [Z])


def test_a_joining_step_takes_of_the_pipeline_what_its_other_sources_do_not_give() -> None:
    spec = "  steps: [{name: a}, {name: b, inputs: [p.inputs, a.outputs]}]\n  output: {steps: [b]}\n"
    told = {"a": model([X], [Y]), "b": model([Y, Z], [X])}
    assert derived(spec, **told) == ([X, Z], [X])


def test_what_may_come_of_two_sources_is_left_out() -> None:
    spec = "  steps: [{name: a}, {name: b, inputs: [p.inputs, a.outputs]}]\n  output: {steps: [b]}\n"
    assert derived(spec, b=model([Y, Z], [X])) == ([], [X])


def test_a_step_of_an_any_join_takes_its_tensors_of_each_source() -> None:
    spec = """
  steps: [{name: a}, {name: b, inputs: [p.inputs, a.outputs], inputsJoinType: any}]
  output: {steps: [b]}
"""
    assert derived(spec, b=model([Y], [X])) == ([Y], [X])


def test_what_a_step_reads_of_anothers_inputs_comes_of_the_pipelines() -> None:
    spec = "  steps: [{name: a}, {name: b, inputs: [a.inputs.z]}]\n  output: {steps: [b, a.inputs.x]}\n"
    assert derived(spec, a=model([X], [Y]), b=model([Z], [])) == ([X, Z], [X])


def test_a_step_behind_a_trigger_takes_nothing_of_it() -> None:
    spec = "  steps: [{name: a}, {name: b, inputs: [a], triggers: [p.inputs.flag]}]\n  output: {steps: [b]}\n"
    assert derived(spec, a=model([X], [Y]), b=model([Y], [Z])) == ([X], [Z])


def test_a_pipeline_without_an_output_gives_nothing() -> None:
    assert derived("  steps: [{name: a}]\n", a=model([X], [Y])) == ([X], [])


def test_the_steps_of_a_cycle_take_nothing_of_the_pipeline_by_it() -> None:
    spec = """
  allowCycles: true
  maxStepRevisits: 3
  steps:
    - {name: a, inputs: [p.inputs, b.outputs], inputsJoinType: any}
    - {name: b, inputs: [a.outputs.more]}
  output: {steps: [a.outputs.done]}
"""
    told = {"a": model([X], [("more", "BOOL", [1]), ("done", "BOOL", [1])]), "b": model([], [X])}
    assert derived(spec, **told) == ([X], [("done", "BOOL", [1])])


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (("FP32", [-1, 4]), ("FP32", [2, -1]), ("FP32", [2, 4])),
        (("FP32", [-1, 4]), ("", []), ("FP32", [-1, 4])),
        (("", []), ("FP32", [-1, 4]), ("FP32", [-1, 4])),
        (("FP32", [4]), ("FP64", [4]), ("", [])),
        (("FP32", [4]), ("FP32", [5]), ("", [])),
        (("FP32", [4]), ("FP32", [1, 4]), ("", [])),
    ],
)
def test_what_two_steps_say_of_one_tensor_is_put_together(
    first: tuple[str, list[int]], second: tuple[str, list[int]], both: tuple[str, list[int]]
) -> None:
    spec = "  steps: [{name: a}, {name: b}]\n  output: {steps: [a, b]}\n"
    told = {"a": model([("x", *first)], []), "b": model([("x", *second)], [])}
    assert derived(spec, **told) == ([("x", *both)], [])
