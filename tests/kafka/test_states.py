from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from registries import loaded

from engine.kafka import states
from engine.kafka.view import CREATING, FAILED, READY, WORKER, Instance, State, View
from engine.resources import Explainer, Pipeline

if TYPE_CHECKING:
    from engine.kafka.view import Loaded

NOW = 100.0


def view(*models: str, pipeline: tuple[str, str] | None = None) -> View:
    """With models that are loaded, and a pipeline `p` of which a living instance says this."""
    found = View(instances={"i": Instance("i", NOW, (WORKER,), 0)})
    for name in models:
        found.resources["model", name] = loaded("Model", name, "{storageUri: 'python:a:b'}")
    if pipeline is not None:
        found.resources["pipeline", "p"] = loaded("Pipeline", "p", "{steps: [{name: m}]}")
        found.states["pipeline", "p"] = {"i": State(("pipeline", "p"), "i", 1, *pipeline, NOW, None, 1)}
    return found


MODEL = loaded("Model", "m", "{storageUri: 'python:a:b'}", version=2)
EXPLAINER = loaded("Model", "e", "{explainer: {type: kernel_shap, modelRef: m}}")


def test_a_model_is_ready_when_it_says_so_and_its_topics_are_there() -> None:
    assert states.of_model("", ready=True) == (READY, "loaded")
    assert states.of_model("", ready=False) == (FAILED, "the model does not answer that it is ready")
    assert states.of_model("a topic is gone", ready=True) == (FAILED, "a topic is gone")
    assert states.of_model("a topic is gone", ready=False) == (FAILED, "a topic is gone")


def test_a_model_is_news_until_it_is_told_to_be_ready_as_it_stands() -> None:
    said = State(MODEL.key, "i", 1, READY, "loaded", NOW, None, MODEL.offset)
    assert states.is_news(MODEL, None)
    assert states.is_news(MODEL, replace(said, state=FAILED))
    assert states.is_news(MODEL, replace(said, offset=1))
    assert not states.is_news(MODEL, said)


@pytest.mark.parametrize("order", [(MODEL, EXPLAINER), (EXPLAINER, MODEL)])
def test_models_are_as_they_are_seen_but_for_explainers(order: tuple[Loaded, ...]) -> None:
    seen = {"m": (FAILED, "broken"), "e": (READY, "loaded")}
    found = states.of_models([(each, seen[each.key[1]]) for each in order], view("m"), NOW)
    told = {each.key[1]: state for each, state in zip(order, found, strict=True)}
    assert told == {"m": (FAILED, "broken"), "e": (FAILED, 'what it explains, model "m": broken')}


def test_an_explainer_is_as_ready_as_a_model_that_has_become_one_too() -> None:
    explained = loaded("Model", "m", "{explainer: {type: kernel_shap, pipelineRef: p}}", version=3)
    seen = [(explained, (READY, "loaded")), (EXPLAINER, (READY, "loaded"))]
    [(_, reason), told] = states.of_models(seen, view("m"), NOW)
    assert told == (FAILED, f'what it explains, model "m": {reason}')


def test_an_explainer_that_fails_itself_is_told_with_its_own_reason() -> None:
    seen = [(MODEL, (FAILED, "broken")), (EXPLAINER, (FAILED, "no background"))]
    assert states.of_models(seen, view("m"), NOW) == [(FAILED, "broken"), (FAILED, "no background")]


def test_a_worker_answers_when_it_has_its_part_and_has_not_fallen_over() -> None:
    assert states.of_worker("", crashed=False, assigned=True) is None
    assert states.of_worker("", crashed=False, assigned=False) == (CREATING, "joining its consumer group")
    assert states.of_worker("newer", crashed=False, assigned=False) == (FAILED, "newer")
    crashed = states.of_worker("newer", crashed=True, assigned=True)
    assert crashed == (FAILED, "its consumer has fallen over and is being replaced")


def of_pipeline(models: dict[str, states.Told], found: View) -> states.Told:
    pipeline = loaded("Pipeline", "p", "{steps: [{name: m}]}").resource
    assert isinstance(pipeline, Pipeline)
    return states.of_pipeline(pipeline, models, found)


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
