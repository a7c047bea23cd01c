"""What the product makes of files before anything starts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from engine.app import check_fed, read
from engine.errors import InvalidResources
from engine.kafka.registry import Loaded, View

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
        check_fed(named, view)
    upstream = read([first]).resources[0]
    view.resources["pipeline", "first"] = Loaded(("pipeline", "first"), upstream, 1, "")
    check_fed(named, view)


def test_an_input_that_is_no_reference_is_told_with_the_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "fed.yaml"
    path.write_text(FED.replace("firsts", "first.output").replace("name: double", "name: double, inputs: [zzz]"))
    with pytest.raises(InvalidResources) as caught:
        read([path])
    assert [problem.place.line for problem in caught.value.problems] == [5, 6]


def test_10_000_steps_with_a_fault_each_are_refused_in_time(tmp_path: Path) -> None:
    """It takes half a second on a quiet machine; anything quadratic takes minutes."""
    path = tmp_path / "many.yaml"
    steps = "".join(f"    - {{name: s{number}, inputs: [t{number}]}}\n" for number in range(10_000))
    path.write_text(PLAIN.replace("steps: [{name: double}]\n", f"steps:\n{steps}"))
    since = time.process_time()
    with pytest.raises(InvalidResources):
        read([path])
    assert time.process_time() - since < 5
