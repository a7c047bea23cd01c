from __future__ import annotations

from engine.dataflow.explaining import check_explained, depth
from engine.resources import Model, Pipeline, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: {}\nmetadata:\n  name: {}\nspec:\n"


def read(text: str) -> Model | Pipeline:
    found, faults = documents(text, "r.yaml")
    resource, problems = parse(found[0])
    assert (faults, problems) == ([], [])
    assert isinstance(resource, (Model, Pipeline))
    return resource


def model(name: str) -> Model | Pipeline:
    return read(HEAD.format("Model", name) + "  storageUri: python:a:b\n")


def explainer(name: str, reference: str) -> Model | Pipeline:
    return read(HEAD.format("Model", name) + f"  explainer:\n    type: kernel_shap\n    {reference}\n")


def pipeline(name: str, *steps: str, fed_by: str = "", output: bool = True) -> Pipeline:
    text = HEAD.format("Pipeline", name) + "  steps:\n" + "".join(f"    - name: {step}\n" for step in steps)
    text += f"  output: {{steps: [{steps[-1]}]}}\n" if output else ""
    text += f"  input: {{externalInputs: [{fed_by}]}}\n" if fed_by else ""
    found = read(text)
    assert isinstance(found, Pipeline)
    return found


def problems(*checked: Model | Pipeline, present: tuple[Model | Pipeline, ...] = ()) -> list[str]:
    """Headlines and hints, with lines counted from the first of the spec's fields."""
    found = check_explained(checked, present)
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in found]


def test_what_is_there_may_be_explained_whether_it_is_new_or_not() -> None:
    whys = explainer("why-m", "modelRef: m"), explainer("why-p", "pipelineRef: p")
    assert problems(*whys, model("m"), pipeline("p", "m")) == []
    assert problems(*whys, present=(model("m"), pipeline("p", "m"))) == []


def test_a_reference_to_nothing_is_told_with_the_nearest_name() -> None:
    assert problems(explainer("why", "modelRef: irs"), model("iris"), pipeline("irs", "iris")) == [
        '3:15: explainer "why" explains model "irs"; no model has that name (did you mean "iris"?)'
    ]
    assert problems(explainer("why", "pipelineRef: p"), model("p")) == [
        '3:18: explainer "why" explains pipeline "p"; no pipeline has that name (load it first, or in the same call)'
    ]


def test_a_pipeline_without_an_output_cannot_be_explained() -> None:
    assert problems(explainer("why", "pipelineRef: p"), model("m"), pipeline("p", "m", output=False)) == [
        (
            '3:18: explainer "why" explains pipeline "p"; it has no output, so that there is nothing to explain '
            "(give it an output, or explain a model)"
        )
    ]


def test_an_explainer_is_no_model_to_explain() -> None:
    hint = "(name the model whose answers are to be explained)"
    assert problems(explainer("why", "modelRef: why")) == [
        f'3:15: explainer "why" explains model "why"; that is the explainer itself {hint}'
    ]
    assert problems(explainer("why", "modelRef: because"), explainer("because", "modelRef: m"), model("m")) == [
        f'3:15: explainer "why" explains model "because"; that is an explainer too {hint}'
    ]


def test_a_pipeline_that_runs_the_explainer_that_explains_it_is_refused() -> None:
    why, runs = explainer("why", "pipelineRef: p"), pipeline("p", "m", "why")
    told = '"p" -> explainer "why": explaining would go on for ever (explain a pipeline without this explainer)'
    assert problems(why, runs, model("m")) == [f'3:18: explainer "why" -> pipeline {told}']
    assert problems(why, present=(runs, model("m"))) == [f'3:18: explainer "why" -> pipeline {told}']


def test_a_ring_is_told_where_the_new_resource_closes_it() -> None:
    present = (explainer("why", "pipelineRef: p"), model("m"))
    [problem] = problems(pipeline("p", "m", "why"), present=present)
    assert problem.startswith('3:13: explainer "why" -> pipeline "p" -> explainer "why": explaining would')


def test_a_ring_over_a_second_explainer_is_refused_once() -> None:
    rings = explainer("why", "pipelineRef: p"), explainer("because", "pipelineRef: q")
    assert problems(*rings, pipeline("p", "because"), pipeline("q", "why")) == [
        (
            '3:18: explainer "why" -> pipeline "p" -> explainer "because" -> pipeline "q" -> explainer "why": '
            "explaining would go on for ever (explain a pipeline without this explainer)"
        )
    ]


def test_a_pipeline_whose_answers_bring_the_explainer_to_run_is_refused() -> None:
    fed = pipeline("q", "why", fed_by="p.outputs")
    why = explainer("why", "pipelineRef: p")
    [problem] = problems(why, pipeline("p", "m"), fed, model("m"))
    assert problem.startswith('3:18: explainer "why" -> pipeline "p" -> pipeline "q" -> explainer "why": explaining')
    [problem] = problems(fed, present=(why, pipeline("p", "m"), model("m")))
    assert problem.startswith('2:13: explainer "why" -> pipeline "p"'), "where the new pipeline runs the explainer"


def test_a_step_that_explains_another_pipeline_is_no_ring() -> None:
    assert problems(explainer("why", "pipelineRef: q"), pipeline("p", "why"), pipeline("q", "m"), model("m")) == []


def test_requests_wait_for_as_many_pipelines_as_explainers_ask_one_behind_the_other() -> None:
    models = {each.name: each for each in (explainer("a", "pipelineRef: q"), explainer("b", "pipelineRef: r"))}
    models |= {each.name: each for each in (explainer("c", "modelRef: m"), model("m"))}
    pipelines = {
        each.name: each
        for each in (pipeline("p", "m", "a"), pipeline("q", "b"), pipeline("r", "c"), pipeline("s", "x"))
    }
    found = {name: depth(name, models, pipelines) for name in (*pipelines, "unknown")}  # type: ignore[arg-type]
    assert found == {"p": 2, "q": 1, "r": 0, "s": 0, "unknown": 0}


def test_a_ring_that_was_loaded_all_the_same_has_an_end() -> None:
    models = {"why": explainer("why", "pipelineRef: p")}
    assert depth("p", models, {"p": pipeline("p", "why")}) == 1  # type: ignore[arg-type]
