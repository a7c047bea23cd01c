from __future__ import annotations

from engine.kafka import states
from engine.kafka.view import CREATING, FAILED, READY, WORKER, Instance, Loaded, State, View
from engine.resources import Explainer, Pipeline, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nmetadata: {name: NAME}\n"
NOW = 100.0


def view(*models: str, pipeline: tuple[str, str] | None = None) -> View:
    """With models that are loaded, and a pipeline `p` of which a living instance says this."""
    found = View(instances={"i": Instance("i", NOW, (WORKER,), 0)})
    for name in models:
        _put(found, "model", name, "kind: Model\nspec: {storageUri: python:a:b}\n")
    if pipeline is not None:
        _put(found, "pipeline", "p", "kind: Pipeline\nspec: {steps: [{name: m}]}\n")
        found.states["pipeline", "p"] = {"i": State(("pipeline", "p"), "i", 1, *pipeline, NOW)}
    return found


def _put(into: View, kind: str, name: str, rest: str) -> None:
    resource, _ = parse(documents(HEAD.replace("NAME", name) + rest, "r.yaml")[0][0])
    assert resource is not None
    into.resources[kind, name] = Loaded((kind, name), resource, 1, "")  # type: ignore[arg-type]


def of_pipeline(models: dict[str, states.Told], found: View) -> states.Told:
    text = HEAD.replace("NAME", "p") + "kind: Pipeline\nspec: {steps: [{name: m}]}\n"
    resource, _ = parse(documents(text, "r.yaml")[0][0])
    assert isinstance(resource, Pipeline)
    return states.of_pipeline(resource, models, found)


def test_a_pipeline_is_as_ready_as_its_models() -> None:
    assert of_pipeline({"m": (READY, "loaded")}, view("m")) == (READY, "created pipeline")
    assert of_pipeline({"m": (FAILED, "broken")}, view("m")) == (FAILED, 'model "m": broken')
    assert of_pipeline({}, view("m")) == (CREATING, 'model "m" is loading')
    assert of_pipeline({}, view()) == (FAILED, 'model "m": it is not loaded')
    assert of_pipeline({"m": (CREATING, "waits for another")}, view("m")) == (CREATING, "waits for another")


def of_model(models: dict[str, states.Told], found: View) -> states.Told:
    return states.of_explainer(Explainer("kernel_shap", model_ref="m"), models, found, NOW)


def test_an_explainer_is_as_ready_as_the_model_that_it_explains() -> None:
    assert of_model({"m": (READY, "loaded")}, view("m")) == (READY, "loaded")
    assert of_model({"m": (FAILED, "broken")}, view("m")) == (FAILED, 'what it explains, model "m": broken')
    assert of_model({}, view("m"))[0] == CREATING
    assert of_model({}, view()) == (FAILED, 'what it explains, model "m": it is not loaded')


def of_explained_pipeline(found: View) -> states.Told:
    return states.of_explainer(Explainer("kernel_shap", pipeline_ref="p"), {}, found, NOW)


def test_an_explainer_is_as_ready_as_the_pipeline_that_it_explains() -> None:
    assert of_explained_pipeline(view(pipeline=(READY, "created pipeline"))) == (READY, "loaded")
    assert of_explained_pipeline(view(pipeline=(FAILED, "broken"))) == (
        FAILED,
        'what it explains, pipeline "p": broken',
    )
    assert of_explained_pipeline(view(pipeline=(CREATING, "joining")))[0] == CREATING
    assert of_explained_pipeline(view()) == (FAILED, 'what it explains, pipeline "p": it is not loaded')


def test_an_explainer_of_a_pipeline_that_nobody_has_taken_up_yet_is_not_ready_yet() -> None:
    found = view(pipeline=(READY, ""))
    found.states.clear()
    assert of_explained_pipeline(found)[0] == CREATING
