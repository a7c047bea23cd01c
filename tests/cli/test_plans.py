"""`seldon pipeline graph` and `seldon pipeline try` on the sample pipelines: no broker."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from engine.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

PIPELINES = Path(__file__).parent.parent.parent / "pipelines"
CONDITIONAL = str(PIPELINES / "conditional.yaml")


@pytest.fixture(autouse=True)
def _models_are_forgotten() -> Iterator[None]:
    """A try imports the samples' `models` into this process, where other tests have modules of that name."""
    path = sys.path
    yield
    sys.path = path
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "").parent == PIPELINES:
            del sys.modules[name]
    importlib.invalidate_caches()


def seldon(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["pipeline", *arguments])


def request(name: str, *data: int) -> str:
    return json.dumps({"inputs": [{"name": name, "shape": [len(data)], "datatype": "INT32", "data": data}]})


def test_a_graph_is_drawn_from_the_file_alone() -> None:
    result = seldon("graph", CONDITIONAL)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[:4] == [
        "pipeline conditional",
        "  choose",
        "    <- conditional.inputs",
        "  add10",
    ]


@pytest.mark.parametrize(("style", "start"), [("mermaid", "flowchart LR\n"), ("json", '{"pipeline": "conditional"')])
def test_a_graph_comes_in_other_forms(style: str, start: str) -> None:
    assert seldon("graph", CONDITIONAL, "--format", style).output.startswith(start)


FEEDING = str(PIPELINES / "feeding.yaml")


def test_what_a_pipeline_takes_of_others_stands_before_its_steps() -> None:
    assert seldon("graph", FEEDING, "--name", "gated").output.splitlines() == [
        "pipeline gated",
        "  input (by key within 10 s)",
        "    <- sums.outputs OUTPUT0 as INPUT",
        "    triggered by",
        "    <~ tenfolds.outputs",
        "  opened",
        "    <- gated.inputs",
        "  output",
        "    <- opened.outputs",
    ]


def test_what_a_pipeline_takes_of_others_is_part_of_its_flowchart() -> None:
    assert seldon("graph", FEEDING, "--name", "gated", "--format", "mermaid").output.splitlines() == [
        "flowchart LR",
        '  n0(["gated.inputs"])',
        '  n1["opened"]',
        '  n2(["gated.outputs"])',
        "  n0 --> n1",
        "  n1 --> n2",
        '  u0(["sums.outputs"])',
        '  u1(["tenfolds.outputs"])',
        '  u0 -->|"OUTPUT0 as INPUT"| n0',
        "  u1 -.-> n0",
    ]


def test_what_a_pipeline_takes_of_others_is_part_of_its_json() -> None:
    assert json.loads(seldon("graph", FEEDING, "--name", "gated", "--format", "json").output)["input"] == {
        "join": "inner",
        "windowSeconds": 10.0,
        "sources": [{"from": "sums.outputs", "tensors": ["OUTPUT0"], "renames": {"OUTPUT0": "INPUT"}}],
        "triggersJoin": "inner",
        "triggers": [{"from": "tenfolds.outputs", "tensors": [], "renames": {}}],
    }


def test_a_pipeline_that_takes_nothing_of_others_has_no_input_in_its_json() -> None:
    assert "input" not in json.loads(seldon("graph", CONDITIONAL, "--format", "json").output)


def test_a_graph_is_drawn_though_what_feeds_the_pipeline_is_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "fed.yaml"
    path.write_text(
        "apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {name: fed}\n"
        "spec: {input: {externalInputs: [elsewhere]}, steps: [{name: score}]}\n"
    )
    result = seldon("graph", str(path))
    assert (result.exit_code, result.output.splitlines()[1:3]) == (0, ["  input", "    <- elsewhere.outputs"])


def test_one_of_several_pipelines_is_chosen_by_its_name() -> None:
    assert seldon("graph", str(PIPELINES), "--name", "tfsimples").output.startswith("pipeline tfsimples\n")


def test_a_pipeline_that_is_not_there_is_told_with_the_nearest_name() -> None:
    result = seldon("graph", str(PIPELINES), "--name", "tfsimplez")
    assert (result.exit_code, result.output) == (
        1,
        'Error: there is no pipeline "tfsimplez"; did you mean "tfsimples"?\n',
    )


def test_a_try_shows_what_passed_each_step_and_not_the_branch_that_was_not_taken() -> None:
    result = seldon("try", CONDITIONAL, "--data", request("INPUT0", 1, 2))
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "choose.inputs",
        "  INPUT0 INT32 [2]: 1, 2",
        "choose.outputs",
        "  small INT32 [2]: 1, 2",
        "add10.inputs",
        "  INPUT INT32 [2]: 1, 2",
        "add10.outputs",
        "  OUTPUT INT32 [2]: 11, 12",
        "outputs",
        "  OUTPUT INT32 [2]: 11, 12",
    ]


def test_a_try_as_json_is_json_alone() -> None:
    result = seldon("try", CONDITIONAL, "--format", "json", "--data", request("INPUT0", 100, 200))
    assert [part["place"] for part in json.loads(result.stdout)][-1] == "outputs"


def test_a_try_that_fails_shows_where_and_ends_with_1() -> None:
    result = seldon("try", CONDITIONAL, "--data", request("INPUTX", 1))
    assert result.exit_code == 1
    assert 'error\n  model "choose" takes the tensors INPUT0 and was given INPUTX' in result.output


def test_a_request_must_be_given_once() -> None:
    assert seldon("try", CONDITIONAL).exit_code == 2
