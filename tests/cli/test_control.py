"""`seldon load` and what serves files, against what is loaded already on an embedded broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result

from engine.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    Seldon = Callable[..., Result]
    Fed = Callable[..., str]

NOBODY = "no worker has taken it up"


@pytest.fixture
def seldon(embedded_broker: str, namespace: str) -> Seldon:
    """A command in this test's own namespace."""

    def run(*arguments: str, piped: str | None = None) -> Result:
        broker = ("--kafka-broker", embedded_broker, "--namespace", namespace)
        return CliRunner().invoke(main, [*arguments, *broker], input=piped)

    return run


@pytest.fixture
def fed(tmp_path: Path) -> Fed:
    """Writes a pipeline that others feed, and gives its file."""

    def write(name: str, *sources: str) -> str:
        path = tmp_path / f"{name}.yaml"
        feed = f"  input: {{externalInputs: [{', '.join(sources)}]}}\n" if sources else ""
        path.write_text(
            f"apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {{name: {name}}}\n"
            f"spec:\n{feed}  steps: [{{name: score}}]\n  output: {{steps: [score]}}\n"
        )
        return str(path)

    return write


def test_a_pipeline_is_loaded_after_those_that_feed_it(seldon: Seldon, fed: Fed) -> None:
    path = fed("second", "first")
    refused = seldon("load", "-f", path)
    assert refused.exit_code == 2
    assert refused.output == (
        f'{path}:5:28: the input of pipeline "second" reads "first"; no pipeline has that name\n'
        "    5 |   input: {externalInputs: [first]}\n"
        "      |                            ^^^^^ load it first, or in the same call\n"
        "\n"
        "Error: 1 problem, nothing was started or loaded\n"
    )
    assert "second" not in seldon("pipeline", "list").output
    assert seldon("load", "-f", fed("first")).exit_code == 0
    assert seldon("load", "-f", path).exit_code == 0


def test_what_is_piped_into_a_command_is_loaded_told_of_and_unloaded(seldon: Seldon, fed: Fed) -> None:
    text = Path(fed("first")).read_text()
    loaded = seldon("load", piped=f"{text}---\n{Path(fed('second', 'first')).read_text()}")
    assert (loaded.exit_code, loaded.output) == (0, "{}\n{}\n")
    told = seldon("status", "-f", "-", piped=text)
    assert (told.exit_code, json.loads(told.output)["pipelineName"]) == (0, "first")
    assert seldon("pipeline", "load", "-f", "-", piped=text).output == "{}\n"
    assert seldon("unload", piped=text).output == "{}\n"
    assert [each["name"] for each in json.loads(seldon("pipeline", "list", "-o", "json").output)] == ["second"]


def test_what_was_unloaded_is_terminated(seldon: Seldon, fed: Fed) -> None:
    wait = ("pipeline", "status", "first", "-w", "PipelineTerminated", "-t")
    assert seldon("load", "-f", fed("first")).exit_code == 0
    assert "Pipeline wait status timeout" in seldon(*wait, "0.1").output
    assert seldon("pipeline", "unload", "first").exit_code == 0
    told = seldon(*wait, "20")
    assert (told.exit_code, json.loads(told.stdout)) == (0, {"pipelineName": "first", "versions": []})
    assert seldon(*wait, "20", "-o", "table").stdout == "pipeline\tstate\treason\n--------\t-----\t------\n"


def test_faults_of_what_is_piped_in_have_their_place(seldon: Seldon) -> None:
    refused = seldon("load", piped="apiVersion: mlops.seldon.io/v1alpha1\nkind: Server\n")
    assert refused.exit_code == 2
    assert refused.output.startswith('standard input:2:7: kind "Server" is not supported\n')


def test_a_load_that_would_close_a_cycle_is_refused_and_changes_nothing(seldon: Seldon, fed: Fed) -> None:
    assert seldon("load", "-f", fed("first")).exit_code == 0
    assert seldon("pipeline", "load", "-f", fed("second", "first")).exit_code == 0
    refused = seldon("pipeline", "load", "-f", fed("first", "second"))
    assert (refused.exit_code, "pipelines first, second feed each other in a cycle" in refused.output) == (2, True)
    assert '"version": 1' in seldon("pipeline", "status", "first").output


def test_a_pipeline_that_feeds_another_may_be_unloaded(seldon: Seldon, fed: Fed) -> None:
    assert seldon("load", "-f", fed("first")).exit_code == 0
    assert seldon("load", "-f", fed("second", "first")).exit_code == 0
    assert seldon("pipeline", "unload", "first").exit_code == 0
    assert "second" in seldon("pipeline", "list").output


@pytest.mark.parametrize("part", [["worker"], ["gateway", "--listen", "127.0.0.1:0"]], ids=lambda part: part[0])
def test_what_serves_a_pipeline_that_nothing_can_feed_does_not_start(seldon: Seldon, fed: Fed, part: list[str]) -> None:
    refused = seldon(*part, fed("second", "elsewhere"))
    assert (refused.exit_code, 'reads "elsewhere"; no pipeline has that name' in refused.output) == (2, True)
    assert "second" not in seldon("pipeline", "list").output


EXPERIMENT = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Experiment
metadata: {name: ab}
spec:
  default: old
  candidates: [{name: old, weight: WEIGHT}, {name: new, weight: 1}]
  mirror: {name: MIRROR, percent: 10}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Fed:
    """Writes an experiment of two models, and gives its file."""

    def write(weight: str = "3", mirror: str = "shadow") -> str:
        path = tmp_path / "ab.yaml"
        path.write_text(EXPERIMENT.replace("WEIGHT", weight).replace("MIRROR", mirror))
        return str(path)

    return write


@pytest.fixture
def models(seldon: Seldon, tmp_path: Path) -> None:
    """Loads the models of the experiment; nobody runs them."""
    path = tmp_path / "models.yaml"
    head = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\n"
    path.write_text(
        "---\n".join(
            f"{head}metadata: {{name: {name}}}\nspec: {{storageUri: grpc://127.0.0.1:1}}\n"
            for name in ("old", "new", "shadow")
        )
    )
    assert seldon("load", "-f", str(path)).exit_code == 0


def test_an_experiment_of_models_that_are_not_loaded_is_refused(seldon: Seldon, experiment: Fed) -> None:
    path = experiment()
    refused = seldon("experiment", "start", "-f", path)
    assert (refused.exit_code, refused.output.splitlines()[:3]) == (
        2,
        [
            f'{path}:6:23: experiment "ab" has candidate model "old"; no model has that name',
            "    6 |   candidates: [{name: old, weight: 3}, {name: new, weight: 1}]",
            "      |                       ^^^ load it first, or in the same call",
        ],
    )
    assert refused.output.endswith("Error: 3 problems, nothing was started or loaded\n")


@pytest.mark.usefixtures("models")
def test_an_experiment_is_started_listed_told_of_and_stopped(seldon: Seldon, experiment: Fed) -> None:
    started = seldon("experiment", "start", "-f", experiment())
    assert (started.exit_code, started.output) == (0, "{}\n")
    assert seldon("experiment", "list").output == "experiment\tactive\n----------\t------\nab        \tfalse\n"
    told = seldon("experiment", "status", "ab")
    assert json.loads(told.output) == {
        "experimentName": "ab",
        "active": False,
        "candidatesReady": False,
        "mirrorReady": False,
        "statusDescription": 'candidate model "old": no worker has taken it up',
        "kubernetesMeta": {},
    }
    stopped = seldon("experiment", "stop", "ab")
    assert (stopped.exit_code, stopped.output) == (0, "{}\n")
    assert seldon("experiment", "list").output == "experiment\tactive\n----------\t------\n"
    unknown = seldon("experiment", "status", "ab")
    assert (unknown.exit_code, unknown.output) == (1, 'Error: no experiment "ab" is loaded\n')


@pytest.mark.usefixtures("models")
def test_who_waits_for_an_experiment_in_vain_hears_why(seldon: Seldon, experiment: Fed) -> None:
    assert seldon("load", "-f", experiment()).exit_code == 0
    assert seldon("model", "unload", "new").exit_code == 0
    late = seldon("experiment", "status", "ab", "-w", "-t", "0.1")
    why = 'experiment ab is inactive, candidate model "new": it is not loaded\n'
    assert (late.exit_code, late.stdout) == (1, "")
    assert late.stderr == f"waiting for active: {why}Error: Experiment wait status timeout: {why}"


@pytest.mark.usefixtures("models")
def test_an_edited_experiment_replaces_itself_and_no_other(seldon: Seldon, experiment: Fed, tmp_path: Path) -> None:
    assert seldon("experiment", "start", "-f", experiment()).exit_code == 0
    assert seldon("experiment", "start", "-f", experiment(weight="9")).exit_code == 0
    other = tmp_path / "other.yaml"
    other.write_text(EXPERIMENT.replace("name: ab", "name: cd").replace("WEIGHT", "1").replace("MIRROR", "shadow"))
    refused = seldon("experiment", "start", "-f", str(other))
    assert (refused.exit_code, refused.output.splitlines()[0]) == (
        2,
        f'{other}:5:12: experiment "cd": model "old" is already the default of experiment "ab"',
    )


@pytest.mark.usefixtures("models")
def test_a_file_without_an_experiment_starts_none(seldon: Seldon, fed: Fed) -> None:
    refused = seldon("experiment", "start", "-f", fed("first"))
    assert (refused.exit_code, "it holds no experiment" in refused.output) == (2, True)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)], ids=["json", "yaml"])
def test_lists_and_states_are_read_by_programs(
    seldon: Seldon, experiment: Fed, form: str, read: Callable[[str], object]
) -> None:
    assert seldon("experiment", "start", "-f", experiment()).exit_code == 0
    model = {"name": "new", "version": 1, "state": "ModelCreate", "reason": NOBODY}
    split = {"name": "ab", "version": 1, "state": "inactive", "reason": f'candidate model "old": {NOBODY}'}
    assert read(seldon("model", "list", "-o", form).stdout) == [
        {**model, "name": name} for name in ("new", "old", "shadow")
    ]
    assert read(seldon("pipeline", "list", "-o", form).stdout) == []
    assert read(seldon("experiment", "list", "-o", form).stdout) == [{**split, "active": False}]
    assert read(seldon("status", "-o", form).stdout) == [
        {"kind": "experiment", **split, "active": False},
        *({"kind": "model", **model, "name": name} for name in ("new", "old", "shadow")),
    ]
    told = read(seldon("model", "status", "new", "-o", form).stdout)
    assert told == json.loads(seldon("model", "status", "new").stdout)


@pytest.mark.usefixtures("models")
def test_the_state_of_one_is_shown_as_a_table_too(seldon: Seldon) -> None:
    assert [line.split() for line in seldon("model", "status", "new", "-o", "table").stdout.splitlines()] == [
        ["model", "state", "reason"],
        ["-----", "-----", "------"],
        ["new", "ModelCreate", *NOBODY.split()],
    ]


@pytest.mark.usefixtures("models")
def test_the_states_of_what_a_file_holds_are_a_line_of_json_each(seldon: Seldon, experiment: Fed) -> None:
    path = experiment()
    assert seldon("load", "-f", path).exit_code == 0
    [line] = seldon("status", "-f", path).stdout.splitlines()
    assert json.loads(line)["experimentName"] == "ab"
    late = seldon("status", "-f", path, "-w", "-t", "0")
    assert (late.exit_code, late.stdout) == (1, "")
    assert "Error: Experiment wait status timeout: experiment ab is inactive" in late.stderr


def test_the_state_of_what_is_not_loaded_is_a_failure(seldon: Seldon, fed: Fed) -> None:
    assert seldon("load", "-f", fed("other")).exit_code == 0
    refused = seldon("status", "-f", fed("first"))
    assert (refused.exit_code, refused.output) == (1, 'Error: no pipeline "first" is loaded\n')


def test_reading_in_a_namespace_where_nothing_was_loaded_says_so_and_leaves_nothing_behind(
    seldon: Seldon, fed: Fed, namespace: str
) -> None:
    remark = f'nothing has been loaded in namespace "{namespace}"'
    for verb in (["pipeline", "list"], ["model", "list", "-o", "json"], ["status"]):
        listed = seldon(*verb)
        assert listed.exit_code == 0, listed.output
        assert remark in listed.stderr
    assert json.loads(seldon("model", "list", "-o", "json").stdout) == []
    for verb in (["pipeline", "status", "first"], ["pipeline", "unload", "first"], ["status", "-f", fed("first")]):
        refused = seldon(*verb)
        assert refused.exit_code == 1, refused.output
        assert refused.stderr.startswith(f"Error: {remark}"), refused.stderr
    assert seldon("topics", "list", "-o", "json").stdout == "[]\n"


def test_reading_in_a_misspelt_namespace_names_the_others(
    seldon: Seldon, fed: Fed, embedded_broker: str, namespace: str
) -> None:
    assert seldon("load", "-f", fed("first")).exit_code == 0
    asked = ["pipeline", "status", "first", "--kafka-broker", embedded_broker, "--namespace", f"{namespace}x"]
    refused = CliRunner().invoke(main, asked)
    assert refused.exit_code == 1
    # Not all are named where many tests have left theirs.
    assert f'"{namespace}x"; there are resources in "' in refused.stderr, refused.stderr
