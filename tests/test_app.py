"""What the product makes of files before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.app import read
from engine.errors import InvalidResources

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
