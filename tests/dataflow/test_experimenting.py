from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.dataflow.experimenting import check_experiments
from engine.resources import documents, parse

if TYPE_CHECKING:
    from engine.resources import Resource

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\n"
MODELS = "".join(
    f"{HEAD}kind: Model\nmetadata: {{name: {name}}}\nspec: {{storageUri: python:a:b}}\n---\n" for name in ("old", "new")
)
EXPLAINER = f"{HEAD}kind: Model\nmetadata: {{name: why}}\nspec: {{explainer: {{type: kernel_shap, modelRef: old}}}}\n"
PIPELINES = "".join(
    f"{HEAD}kind: Pipeline\nmetadata: {{name: {name}}}\nspec: {{steps: [{{name: old}}]{output}}}\n---\n"
    for name, output in (("shop", ", output: {steps: [old]}"), ("store", ", output: {steps: [old]}"), ("sink", ""))
)
PRESENT = f"{MODELS}{PIPELINES}{EXPLAINER}"


def resources(text: str) -> list[Resource]:
    found = [parse(document)[0] for document in documents(text, "r.yaml")[0]]
    assert all(found), text
    return found  # type: ignore[return-value]


def experiment(spec: str, name: str = "ab") -> str:
    return f"{HEAD}kind: Experiment\nmetadata: {{name: {name}}}\nspec:\n{spec}"


def candidates(*names: str) -> str:
    return f"  candidates: [{', '.join(f'{{name: {name}, weight: 1}}' for name in names)}]\n"


def told(text: str, present: str = PRESENT) -> list[tuple[str, str]]:
    """Each problem and its hint."""
    found = check_experiments(resources(text), resources(present) if present else [])
    return [(str(problem.message), problem.hint or "") for problem in found]


def test_an_experiment_of_what_is_loaded_has_no_problem() -> None:
    assert told(experiment("  default: old\n" + candidates("old", "new"))) == []
    assert told(experiment("  resourceType: pipeline\n  default: shop\n" + candidates("shop", "store"))) == []


def test_it_may_come_together_with_its_candidates() -> None:
    assert told(f"{MODELS}{experiment(candidates('old', 'new'))}", "") == []


def test_unknown_candidates_are_told_each_at_its_place() -> None:
    text = experiment(candidates("older", "zzzzz") + "  mirror: {name: ghost, percent: 5}\n")
    found = check_experiments(resources(text), resources(PRESENT))
    assert [str(problem.place) for problem in found] == ["r.yaml:5:23", "r.yaml:5:49", "r.yaml:6:18"]
    assert told(text)[:2] == [
        ('experiment "ab" has candidate model "older"; no model has that name', 'did you mean "old"?'),
        ('experiment "ab" has candidate model "zzzzz"; no model has that name', "load it first, or in the same call"),
    ]
    assert told(text)[2][0] == 'experiment "ab" has mirror model "ghost"; no model has that name'


def test_candidates_of_the_other_kind_are_refused_with_what_to_write() -> None:
    assert told(experiment(candidates("old", "shop"))) == [
        (
            'experiment "ab" has candidate model "shop"; no model has that name',
            "there is a pipeline of that name: write resourceType: pipeline, for all candidates",
        )
    ]
    [(_, hint)] = told(experiment("  resourceType: pipeline\n" + candidates("shop", "new")))
    assert hint == "there is a model of that name: write resourceType: model, for all candidates"


@pytest.mark.parametrize("name", ["cd.experiment", "cd"])
def test_experiments_are_no_candidates(name: str) -> None:
    present = f"{PRESENT}---\n{experiment(candidates('old', 'new'), 'cd')}"
    [(_, hint)] = told(experiment(candidates("old", name)), present)
    assert hint == "experiments do not split the calls of experiments: name the candidates here"


def test_explainers_are_no_candidates() -> None:
    [(text, hint)] = told(experiment(candidates("old", "why")))
    assert text == 'experiment "ab" has candidate model "why"; that is an explainer'
    assert hint == "split the calls of what it explains"


def test_a_pipeline_that_answers_nobody_may_be_a_mirror_and_no_candidate() -> None:
    [(text, _)] = told(experiment("  resourceType: pipeline\n" + candidates("shop", "sink")))
    assert text == 'experiment "ab" has candidate pipeline "sink"; it has no output, so its callers would get no answer'
    mirrored = "  resourceType: pipeline\n" + candidates("shop") + "  mirror: {name: sink, percent: 5}\n"
    assert told(experiment(mirrored)) == []


def test_a_default_of_an_experiment_that_is_loaded_is_refused() -> None:
    present = f"{PRESENT}---\n{experiment('  default: old' + chr(10) + candidates('old', 'new'), 'cd')}"
    assert told(experiment("  default: old\n" + candidates("old")), present) == [
        (
            'experiment "ab": model "old" is already the default of experiment "cd"',
            "stop that one first, or call this one as ab.experiment, without a default",
        )
    ]
    assert told(experiment("  default: new\n" + candidates("new")), present) == []


def test_an_experiment_may_replace_itself_and_keep_its_default() -> None:
    text = experiment("  default: old\n" + candidates("old", "new"))
    assert told(text, f"{PRESENT}---\n{text}") == []


def test_a_model_and_a_pipeline_of_one_name_may_both_be_defaults() -> None:
    pipeline = (
        f"{HEAD}kind: Pipeline\nmetadata: {{name: old}}\nspec: {{steps: [{{name: new}}], output: {{steps: [new]}}}}\n"
    )
    present = f"{PRESENT}---\n{pipeline}---\n{experiment('  default: old' + chr(10) + candidates('old'), 'cd')}"
    assert told(experiment("  resourceType: pipeline\n  default: old\n" + candidates("old")), present) == []
