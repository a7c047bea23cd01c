from __future__ import annotations

import pytest

from engine.resources import Batch, Input, Join, Output, Pipeline, Step, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata:\n  name: fraud\nspec:\n"
ONE_STEP = "  steps: [{name: score}]\n"


def pipeline(spec: str) -> Pipeline:
    found, faults = documents(HEAD + spec, "p.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Pipeline)
    return resource


def refusals(spec: str) -> list[str]:
    """The headlines of all problems, with lines counted from the first of the spec's fields."""
    found, faults = documents(HEAD + spec, "p.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert resource is None
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" for p in problems]


FULL = """\
  steps:
    - name: features
    - name: score
      inputs: [features.outputs.x, fraud.inputs.y]
      inputsJoinType: outer
      triggers: [features]
      triggersJoinType: any
      joinWindowMs: 100
      tensorMap:
        fraud.inputs.y: z
        features.outputs.x: a
      batch: {size: 8, windowMs: 50, rolling: false}
  input:
    externalInputs: [other.outputs]
    externalTriggers: [other.step.s.outputs.t]
    joinWindowMs: 5
    joinType: any
    triggersJoinType: outer
    tensorMap: {other.outputs.q: r}
  output:
    steps: [score]
    stepsJoin: any
    joinWindowMs: 7
    tensorMap: {score.outputs.o: p}
  allowCycles: true
  maxStepRevisits: 3
  dataflow: {cleanTopicsOnDelete: true}
"""


def test_every_field_is_read() -> None:
    found, _ = documents(HEAD + FULL, "p.yaml")
    assert pipeline(FULL) == Pipeline(
        name="fraud",
        steps=(
            Step("features"),
            Step(
                "score",
                inputs=("features.outputs.x", "fraud.inputs.y"),
                inputs_join=Join.OUTER,
                triggers=("features",),
                triggers_join=Join.ANY,
                join_window_ms=100,
                tensor_map=(("features.outputs.x", "a"), ("fraud.inputs.y", "z")),
                batch=Batch(8, 50),
            ),
        ),
        input=Input(
            ("other.outputs",),
            external_triggers=("other.step.s.outputs.t",),
            join_window_ms=5,
            join_type=Join.ANY,
            triggers_join_type=Join.OUTER,
            tensor_map=(("other.outputs.q", "r"),),
        ),
        output=Output(("score",), Join.ANY, 7, (("score.outputs.o", "p"),)),
        allow_cycles=True,
        max_step_revisits=3,
        clean_topics_on_delete=True,
        document=found[0],
    )


def test_a_pipeline_needs_no_more_than_a_step() -> None:
    bare = pipeline(ONE_STEP)
    assert (bare.steps, bare.input, bare.output) == ((Step("score"),), None, None)


def test_a_step_joins_all_its_inputs_unless_it_says_otherwise() -> None:
    (step,) = pipeline(ONE_STEP).steps
    assert (step.inputs_join, step.triggers_join) == (Join.INNER, Join.INNER)


def test_equal_pipelines_are_equal_wherever_they_stand() -> None:
    found, _ = documents("---\n# below\n" + HEAD + ONE_STEP, "other.yaml")
    assert parse(found[0])[0] == pipeline(ONE_STEP)


def test_a_window_of_zero_is_the_default_window() -> None:
    (step,) = pipeline("  steps: [{name: score, joinWindowMs: 0}]\n").steps
    assert step.join_window_ms is None


def test_a_batch_without_limits_is_no_batch() -> None:
    (step,) = pipeline("  steps: [{name: score, batch: {}}]\n").steps
    assert step.batch is None


def test_an_output_may_have_no_steps() -> None:
    assert pipeline(ONE_STEP + "  output: {steps: []}\n").output == Output(())


@pytest.mark.parametrize("steps", ["  steps: []\n", "  steps:\n", "  allowCycles: false\n"])
def test_a_pipeline_without_steps_is_refused(steps: str) -> None:
    (refusal,) = refusals(steps)
    assert refusal.endswith('pipeline "fraud" has no steps')


def test_a_repeated_step_is_refused_at_its_second_place() -> None:
    spec = "  steps:\n    - name: score\n    - name: score\n"
    assert refusals(spec) == ['3:13: pipeline "fraud" has repeated step "score"']


def test_a_step_called_like_the_pipeline_is_refused() -> None:
    assert refusals("  steps: [{name: fraud}]\n") == ['1:18: pipeline "fraud" must not have a step of its own name']


def test_a_step_needs_a_name() -> None:
    assert refusals("  steps: [{}, {inputs: []}]\n") == [
        '1:11: pipeline "fraud" step needs "name"',
        '1:15: pipeline "fraud" step needs "name"',
    ]


@pytest.mark.parametrize("name", ["Score", "a.b", "-a", "a_", "a b", "ä", "a" * 64])
def test_a_step_name_that_no_topic_can_have_is_refused(name: str) -> None:
    assert refusals(f"  steps: [{{name: {name}}}]\n") == [
        f'1:18: pipeline "fraud" step does not have a valid name: "{name}"'
    ]


@pytest.mark.parametrize("name", ["a", "7", "a-b_c", "a" * 63])
def test_a_step_name_that_a_topic_can_have_is_taken(name: str) -> None:
    assert pipeline(f'  steps: [{{name: "{name}"}}]\n').steps == (Step(name),)


@pytest.mark.parametrize("reference", ['""', '"  "', ".outputs"])
@pytest.mark.parametrize(("key", "noun"), [("inputs", "input"), ("triggers", "trigger")])
def test_an_empty_reference_of_a_step_is_refused(reference: str, key: str, noun: str) -> None:
    (refusal,) = refusals(f"  steps: [{{name: score, {key}: [a, {reference}]}}]\n")
    assert refusal.endswith(f': pipeline "fraud" step "score" has an empty {noun}')


def test_an_empty_output_step_is_refused() -> None:
    assert refusals(ONE_STEP + "  output: {steps: ['']}\n") == ['2:21: pipeline "fraud" output has an empty step']


def test_empty_external_references_are_refused() -> None:
    spec = ONE_STEP + "  input: {externalInputs: [''], externalTriggers: [.x]}\n"
    assert refusals(spec) == [
        '2:29: pipeline "fraud" input has an empty external input',
        '2:52: pipeline "fraud" input has an empty external trigger',
    ]


@pytest.mark.parametrize("section", ["{}", "{externalInputs: []}", "{externalInputs: ~}", "{externalTriggers: [p]}"])
def test_an_input_without_external_inputs_is_refused(section: str) -> None:
    (refusal,) = refusals(ONE_STEP + f"  input: {section}\n")
    assert refusal.endswith('pipeline "fraud" input has no "externalInputs"')


def test_a_rolling_batch_is_refused() -> None:
    assert refusals("  steps: [{name: score, batch: {size: 2, rolling: true}}]\n") == [
        '1:51: pipeline "fraud" step "score" batch: rolling batches are not supported'
    ]


@pytest.mark.parametrize("key", ["size", "windowMs"])
def test_a_batch_limit_below_one_is_refused(key: str) -> None:
    (refusal,) = refusals(f"  steps: [{{name: score, batch: {{{key}: 0}}}}]\n")
    assert refusal.endswith(f'pipeline "fraud" step "score" batch: "{key}" must be at least 1, not 0')


def test_a_negative_window_is_refused() -> None:
    assert refusals("  steps: [{name: score, joinWindowMs: -1}]\n") == [
        '1:39: pipeline "fraud" step "score": "joinWindowMs" must be at least 0, not -1'
    ]


def test_a_negative_count_of_revisits_is_refused() -> None:
    assert refusals(ONE_STEP + "  maxStepRevisits: -1\n") == [
        '2:20: pipeline "fraud": "maxStepRevisits" must be at least 0, not -1'
    ]


def test_an_unknown_join_is_refused_with_the_nearest() -> None:
    found, _ = documents(HEAD + "  steps: [{name: score, inputsJoinType: iner}]\n", "p.yaml")
    _, (problem,) = parse(found[0])
    assert str(problem) == (
        'p.yaml:6:41: pipeline "fraud" step "score": '
        '"inputsJoinType" must be inner, outer or any, not "iner"\n'
        "    6 |   steps: [{name: score, inputsJoinType: iner}]\n"
        '      |                                         ^^^^ did you mean "inner"?'
    )


def test_a_join_that_is_no_text_is_refused_once() -> None:
    assert refusals("  steps: [{name: score, inputsJoinType: 1}]\n") == [
        '1:41: pipeline "fraud" step "score": "inputsJoinType" must be a text, not 1'
    ]


def test_a_tensor_map_maps_texts_to_texts() -> None:
    assert refusals("  steps: [{name: score, tensorMap: {a.outputs.x: 1}}]\n") == [
        '1:50: pipeline "fraud" step "score": "a.outputs.x" in "tensorMap" must be a text, not 1'
    ]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("  steps: [{name: score, input: [a]}]\n", 'step "score" has an unknown field "input"'),
        ("  steps: [{name: score, batch: {sizee: 1}}]\n", 'step "score" batch has an unknown field "sizee"'),
        (ONE_STEP + "  output: {step: [a]}\n", 'output has an unknown field "step"'),
        (ONE_STEP + "  input: {externalInputs: [p], join: any}\n", 'input has an unknown field "join"'),
    ],
)
def test_unknown_fields_are_refused_at_every_level(spec: str, field: str) -> None:
    (refusal,) = refusals(spec)
    assert refusal.endswith(f': pipeline "fraud" {field}')


def test_an_unknown_field_of_the_spec_is_refused() -> None:
    assert refusals(ONE_STEP + "  outputs: {steps: [score]}\n") == [
        '2:3: pipeline "fraud" has an unknown field "outputs"'
    ]


def test_a_thousand_faults_are_told_as_a_hundred() -> None:
    assert len(refusals("  steps: [" + "{nme: x}, " * 1000 + "]\n")) == 100
