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
    """The headlines and hints of all problems, with lines counted from the first of the spec's fields."""
    found, faults = documents(HEAD + spec, "p.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert resource is None
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems]


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


@pytest.mark.parametrize(
    ("steps", "place"), [("  steps: []\n", "1:10"), ("  steps:\n", "1:9"), ("  allowCycles: false\n", "0:1")]
)
def test_a_pipeline_without_steps_is_refused(steps: str, place: str) -> None:
    assert refusals(steps) == [f'{place}: pipeline "fraud" has no steps (write steps: [{{name: <model>}}])']


def test_a_repeated_step_is_refused_at_its_second_place() -> None:
    spec = "  steps:\n    - name: score\n    - name: score\n"
    hint = "a step runs the model of its name; load the model under a second name to run it twice"
    assert refusals(spec) == [f'3:13: pipeline "fraud" has repeated step "score" ({hint})']


def test_a_step_called_like_the_pipeline_is_refused() -> None:
    hint = "the pipeline's name in a reference means what came in; rename one of them"
    assert refusals("  steps: [{name: fraud}]\n") == [
        f'1:18: pipeline "fraud" must not have a step of its own name ({hint})'
    ]


def test_a_step_needs_a_name() -> None:
    assert refusals("  steps: [{}, {inputs: []}]\n") == [
        '1:11: pipeline "fraud" step needs "name"',
        '1:15: pipeline "fraud" step needs "name"',
    ]


NAME_HINT = 'use lower-case letters, digits, "-" and "_", at most 63, with a letter or digit at both ends'


@pytest.mark.parametrize("name", ["Score", "a.b", "-a", "a_", "a b", "a" * 64])
def test_a_step_name_that_no_topic_can_have_is_refused(name: str) -> None:
    assert refusals(f"  steps: [{{name: {name}}}]\n") == [
        f'1:18: pipeline "fraud" step does not have a valid name: "{name}" ({NAME_HINT})'
    ]


def test_a_letter_in_a_name_that_looks_like_another_is_called_by_its_name() -> None:
    [found] = refusals("  steps: [{name: ä}]\n")
    assert '("ä" is LATIN SMALL LETTER A WITH DIAERESIS; use lower-case letters' in found


def test_a_pipeline_name_that_no_topic_can_have_is_refused() -> None:
    found, _ = documents(HEAD.replace("fraud", "fraud.v2") + ONE_STEP, "p.yaml")
    _, (problem,) = parse(found[0])
    assert (str(problem.place), problem.hint) == ("p.yaml:4:9", NAME_HINT)
    assert problem.message == 'the pipeline does not have a valid name: "fraud.v2"'


@pytest.mark.parametrize("name", ["a", "7", "a-b_c", "a" * 63])
def test_a_step_name_that_a_topic_can_have_is_taken(name: str) -> None:
    assert pipeline(f'  steps: [{{name: "{name}"}}]\n').steps == (Step(name),)


EMPTY_HINT = "name what it reads, or delete it"


@pytest.mark.parametrize(("reference", "column"), [('""', 1), ('"  "', 1), (".outputs", 0)])
@pytest.mark.parametrize(("key", "noun"), [("inputs", "input"), ("triggers", "trigger")])
def test_an_empty_reference_of_a_step_is_refused(reference: str, column: int, key: str, noun: str) -> None:
    """A text in quotes begins behind them."""
    assert refusals(f"  steps: [{{name: score, {key}: [a, {reference}]}}]\n") == [
        f'1:{column + len(key) + 31}: pipeline "fraud" step "score" has an empty {noun} ({EMPTY_HINT})'
    ]


def test_an_empty_output_step_is_refused() -> None:
    assert refusals(ONE_STEP + "  output: {steps: ['']}\n") == [
        f'2:21: pipeline "fraud" output has an empty step ({EMPTY_HINT})'
    ]


def test_empty_external_references_are_refused() -> None:
    spec = ONE_STEP + "  input: {externalInputs: [''], externalTriggers: [.x]}\n"
    assert refusals(spec) == [
        f'2:29: pipeline "fraud" input has an empty external input ({EMPTY_HINT})',
        f'2:52: pipeline "fraud" input has an empty external trigger ({EMPTY_HINT})',
    ]


@pytest.mark.parametrize(
    ("section", "column"),
    [("{}", 3), ("{externalInputs: []}", 27), ("{externalInputs: ~}", 27), ("{externalTriggers: [p]}", 3)],
)
def test_an_input_without_external_inputs_is_refused(section: str, column: int) -> None:
    hint = "write externalInputs: [<pipeline>], or leave the input out"
    assert refusals(ONE_STEP + f"  input: {section}\n") == [
        f'2:{column}: pipeline "fraud" input has no "externalInputs" ({hint})'
    ]


@pytest.mark.parametrize(
    ("spec", "place", "field"),
    [
        ("  steps: [{name: score, inputs: [a, 1]}]\n", "1:37", 'step "score": every entry of "inputs"'),
        ("  steps: [{name: score, triggers: [1]}]\n", "1:36", 'step "score": every entry of "triggers"'),
        (ONE_STEP + "  output: {steps: [1]}\n", "2:20", 'output: every entry of "steps"'),
        (ONE_STEP + "  input: {externalInputs: [1]}\n", "2:28", 'input: every entry of "externalInputs"'),
    ],
)
def test_a_reference_that_is_no_text_is_refused(spec: str, place: str, field: str) -> None:
    assert refusals(spec) == [f'{place}: pipeline "fraud" {field} must be a text, not 1 (write it in quotes: "1")']


def test_a_rolling_batch_is_refused() -> None:
    hint = 'leave it out; "size" and "windowMs" bound a batch'
    assert refusals("  steps: [{name: score, batch: {size: 2, rolling: true}}]\n") == [
        f'1:51: pipeline "fraud" step "score" batch: rolling batches are not supported ({hint})'
    ]


MOST = (1 << 31) - 1


@pytest.mark.parametrize(
    ("spec", "place", "field", "least"),
    [
        ("  steps: [{name: score, joinWindowMs: VALUE}]\n", "1:39", 'step "score": "joinWindowMs"', 0),
        ("  steps: [{name: score, batch: {size: VALUE}}]\n", "1:39", 'step "score" batch: "size"', 1),
        ("  steps: [{name: score, batch: {windowMs: VALUE}}]\n", "1:43", 'step "score" batch: "windowMs"', 1),
        (ONE_STEP + "  output: {joinWindowMs: VALUE}\n", "2:26", 'output: "joinWindowMs"', 0),
        (ONE_STEP + "  input: {externalInputs: [p], joinWindowMs: VALUE}\n", "2:46", 'input: "joinWindowMs"', 0),
        (ONE_STEP + "  maxStepRevisits: VALUE\n", "2:20", None, 0),
    ],
)
def test_a_number_out_of_its_range_is_refused(spec: str, place: str, field: str | None, least: int) -> None:
    named = f'pipeline "fraud" {field}' if field else 'pipeline "fraud": "maxStepRevisits"'
    assert refusals(spec.replace("VALUE", str(least - 1))) == [
        f"{place}: {named} must be at least {least}, not {least - 1}"
    ]
    assert refusals(spec.replace("VALUE", str(MOST + 1))) == [
        f"{place}: {named} must be at most {MOST}, not {MOST + 1}"
    ]


def test_a_window_that_is_no_number_is_refused() -> None:
    assert refusals("  steps: [{name: score, joinWindowMs: '5'}]\n") == [
        '1:40: pipeline "fraud" step "score": "joinWindowMs" must be a whole number, not a text'
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
        '1:41: pipeline "fraud" step "score": "inputsJoinType" must be a text, not 1 (write it in quotes: "1")'
    ]


def test_a_tensor_map_maps_texts_to_texts() -> None:
    assert refusals("  steps: [{name: score, tensorMap: {a.outputs.x: 1}}]\n") == [
        (
            '1:50: pipeline "fraud" step "score": "a.outputs.x" in "tensorMap" must be a text, not 1 '
            '(write it in quotes: "1")'
        )
    ]


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (
            "  steps: [{name: score, input: [a]}]\n",
            '1:25: pipeline "fraud" step "score" has an unknown field "input" (did you mean "inputs"?)',
        ),
        (
            "  steps: [{name: score, batch: {sizee: 1}}]\n",
            '1:33: pipeline "fraud" step "score" batch has an unknown field "sizee" (did you mean "size"?)',
        ),
        (
            ONE_STEP + "  output: {step: [a]}\n",
            '2:12: pipeline "fraud" output has an unknown field "step" (did you mean "steps"?)',
        ),
        (
            ONE_STEP + "  input: {externalInputs: [p], join: any}\n",
            '2:32: pipeline "fraud" input has an unknown field "join" (did you mean "joinType"?)',
        ),
        (
            ONE_STEP + "  outputs: {steps: [score]}\n",
            '2:3: pipeline "fraud" has an unknown field "outputs" (did you mean "output"?)',
        ),
    ],
)
def test_unknown_fields_are_refused_at_every_level(spec: str, refusal: str) -> None:
    assert refusals(spec) == [refusal]


@pytest.mark.parametrize(
    ("spec", "place", "field", "value", "nearest"),
    [
        ("  steps: [{name: score, triggersJoinType: al}]\n", "1:43", 'step "score": "triggersJoinType"', "al", ""),
        (ONE_STEP + "  output: {stepsJoin: out}\n", "2:23", 'output: "stepsJoin"', "out", "outer"),
        (ONE_STEP + "  input: {externalInputs: [p], joinType: ani}\n", "2:42", 'input: "joinType"', "ani", "any"),
    ],
)
def test_an_unknown_join_is_refused_wherever_it_stands(
    spec: str, place: str, field: str, value: str, nearest: str
) -> None:
    hint = f' (did you mean "{nearest}"?)' if nearest else ""
    assert refusals(spec) == [f'{place}: pipeline "fraud" {field} must be inner, outer or any, not "{value}"{hint}']


def test_a_thousand_faults_are_told_as_a_hundred() -> None:
    assert len(refusals("  steps: [" + "{nme: x}, " * 1000 + "]\n")) == 100
