"""What the product makes of files before anything starts."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from engine.app import _Catalogue, check_references, read, summary
from engine.errors import InvalidResources
from engine.gateway.inference import Target
from engine.kafka.view import FAILED, WORKER, Instance, Loaded, State, View
from engine.protocol.record import Owner
from engine.resources import Pipeline

if TYPE_CHECKING:
    from pathlib import Path

FAULTY = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: twice}
spec:
  steps:
    - name: double
      inptus: [x]
    - name: second
      inputs: [dubble]
  output: {steps: [double]}
"""


def test_faults_of_fields_and_of_references_are_told_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(FAULTY)
    with pytest.raises(InvalidResources) as caught:
        read([path])
    assert [(problem.place.line, problem.hint) for problem in caught.value.problems] == [
        (7, 'did you mean "inputs"?'),
        (9, 'did you mean "double"?'),
    ]


def test_what_is_told_of_a_line_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(FAULTY.replace("inptus: [x]", "name: 7").replace("[dubble]", "[double]"))
    with pytest.raises(InvalidResources) as caught:
        read([path])
    lines = [problem.place.line for problem in caught.value.problems]
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ("{steps: [{name: iris}]}", [4]),
        ("{steps: [{name: iris}, {name: q, inputs: [iris]}]}", [4]),
        ("{steps: [{name: iris, inputs: [iris.outputs]}], output: {steps: [iris.outputs]}}", [4]),
        ("{allowCycles: true, steps: [{name: iris, inputs: [iris]}]}", [4]),
        ("\n  steps:\n  - name: iris\n  - name: q\n    inputs: [nope]", [6, 8]),
    ],
)
def test_a_pipeline_with_a_step_of_its_own_name_is_told_so_and_what_else_is_wrong(
    tmp_path: Path, spec: str, lines: list[int]
) -> None:
    path = tmp_path / "iris.yaml"
    path.write_text(f"apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {{name: iris}}\nspec: {spec}\n")
    with pytest.raises(InvalidResources) as caught:
        read([path], alone=True)
    assert [problem.place.line for problem in caught.value.problems] == lines
    assert caught.value.problems[0].message == 'pipeline "iris" must not have a step of its own name'


@pytest.mark.parametrize("repeated", ["{name: double}", "{}"])
def test_what_is_wrong_behind_a_repeated_step_is_told_at_its_own_place(tmp_path: Path, repeated: str) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(FAULTY.replace("      inptus: [x]", f"    - {repeated}\n    - {repeated}"))
    with pytest.raises(InvalidResources) as caught:
        read([path])
    assert caught.value.problems[-1].place.line == 10
    assert caught.value.problems[-1].hint == 'did you mean "double"?'


PLAIN = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: first}
spec:
  steps: [{name: double}]
  output: {steps: [double]}
"""
FED = PLAIN.replace("first", "second").replace("spec:", "spec:\n  input: {externalInputs: [firsts]}")


def test_a_pipeline_that_nothing_can_feed_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "fed.yaml"
    path.write_text(f"{PLAIN}---\n{FED}")
    with pytest.raises(InvalidResources) as caught:
        read([path], alone=True)
    assert [problem.hint for problem in caught.value.problems] == ['did you mean "first"?']


def test_what_may_be_loaded_already_is_looked_for_where_it_is_known(tmp_path: Path) -> None:
    path, first = tmp_path / "fed.yaml", tmp_path / "first.yaml"
    path.write_text(FED.replace("firsts", "first"))
    first.write_text(PLAIN)
    named, view = read([path]), View()
    with pytest.raises(InvalidResources):
        check_references(named, view)
    upstream = read([first]).resources[0]
    view.resources["pipeline", "first"] = Loaded(("pipeline", "first"), upstream, 1, "")
    check_references(named, view)


def test_an_input_that_is_no_reference_is_told_with_the_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "fed.yaml"
    path.write_text(FED.replace("firsts", "first.output").replace("name: double", "name: double, inputs: [zzz]"))
    with pytest.raises(InvalidResources) as caught:
        read([path])
    assert [problem.place.line for problem in caught.value.problems] == [5, 6]


def refused(path: Path) -> list[str]:
    """What is told of a file: of reading it, its fields and its references."""
    with pytest.raises(InvalidResources) as caught:
        read([path], alone=True)
    return [problem.message for problem in caught.value.problems]


def of_steps(count: int, step: str) -> str:
    steps = "".join(f"    - {step.format(number, number - 1)}\n" for number in range(1, count + 1))
    return PLAIN.replace("steps: [{name: double}]", f"steps:\n    - name: s0\n{steps}").replace("[double]", "[s0]")


def test_10_000_steps_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(of_steps(9_999, "name: s{}"))
    [pipeline] = read([path], alone=True).resources
    assert isinstance(pipeline, Pipeline)
    assert len(pipeline.steps) == 10_000


@pytest.mark.parametrize(
    ("count", "step", "told"),
    [
        (10_000, "name: s0", 'pipeline "first" has repeated step "s0"'),
        (10_000, "name: S{}", 'pipeline "first" step does not have a valid name: "S1"'),
        (8_000, "{{name: s{}, inputs: [t{}]}}", 'step "s1" reads "t0"; no step has that name'),
        (8_000, "{{name: s{}, triggers: [t{}]}}", 'step "s1" reads "t0"; no step has that name'),
        (8_000, "{{name: s{}, inputs: [s{}.output]}}", 'step "s1" reads "s0.output", which is no reference'),
        (8_000, "{{name: s{}, input: [s{}]}}", 'pipeline "first" step "s1" has an unknown field "input"'),
    ],
)
def test_thousands_of_steps_with_a_fault_each_are_told_as_a_hundred(
    tmp_path: Path, count: int, step: str, told: str
) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(of_steps(count, step))
    messages = refused(path)
    assert len(messages) == 100
    assert messages[0].endswith(told)


def test_a_file_with_more_steps_than_are_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(of_steps(10_000, "{{name: s{}, inputs: [s{}]}}"))
    assert refused(path) == ["more than 50000 values in one text"]


@pytest.mark.parametrize(
    "written",
    [
        PLAIN.replace("name: double", "name: double, inputs: [TEXT]"),
        PLAIN.replace("name: double", "name: double, triggers: [TEXT]"),
        PLAIN.replace("[double]", "[TEXT]"),
        PLAIN.replace("spec:", "spec:\n  input: {externalInputs: [TEXT]}"),
        f"{PLAIN}---\n{FED.replace('[firsts]', '[first], externalTriggers: [TEXT]')}",
    ],
    ids=["inputs", "triggers", "output", "external inputs", "external triggers"],
)
@pytest.mark.parametrize("text", ["x." * 5_000, "x" * 10_000], ids=["many parts", "one part"])
def test_a_reference_of_10_kb_is_refused(tmp_path: Path, written: str, text: str) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(written.replace("TEXT", text))
    [message] = refused(path)
    assert text[:50] in message


MODEL = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {name: old}\nspec: {storageUri: python:a:b}\n"
EXPERIMENT = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Experiment
metadata: {name: ab}
spec:
  candidates: [{name: old, weight: 1}, {name: old2, weight: 1}]
"""


def test_an_experiment_of_what_is_nowhere_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "ab.yaml"
    path.write_text(f"{MODEL}---\n{EXPERIMENT}")
    assert refused(path) == ['experiment "ab" has candidate model "old2"; no model has that name']


def test_a_candidate_that_has_faults_of_its_own_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "ab.yaml"
    faulty = MODEL.replace("old", "old2").replace("storageUri", "storageUrl")
    path.write_text(f"{MODEL}---\n{faulty}---\n{EXPERIMENT}")
    assert not [message for message in refused(path) if "experiment" in message]


def test_experiments_come_after_those_whose_calls_they_split(tmp_path: Path) -> None:
    path = tmp_path / "ab.yaml"
    path.write_text(f"{EXPERIMENT.replace('old2', 'new')}---\n{MODEL}---\n{MODEL.replace('old', 'new')}")
    named = read([path], alone=True)
    assert [resource.name for resource in named.resources] == ["old", "new", "ab"]
    assert summary(named) == "0 pipelines, 2 models, 1 experiment"


def test_what_is_not_ready_says_why_as_its_state_does(tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(PLAIN)
    [pipeline] = read([path], alone=True).resources
    key, now = ("pipeline", "first"), time.time()
    view = View(resources={key: Loaded(key, pipeline, 1, "")})
    catalogue = _Catalogue(cast("Any", SimpleNamespace(view=view)))
    target = Target(Owner.PIPELINE, "first")
    told = [catalogue.unready(target)]
    view.instances["i"] = Instance("i", now, (WORKER,), 0)
    view.states[key] = {"i": State(key, "i", 1, FAILED, 'model "double": it is not loaded', now)}
    told.append(catalogue.unready(target))
    assert not catalogue.ready(target)
    assert told == ["no worker has taken it up", 'model "double": it is not loaded']
