from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from registries import loaded

from engine.kafka.standing import Standing, depth_of

if TYPE_CHECKING:
    from engine.kafka.view import Key, Loaded

MODEL, MODEL_2 = (loaded("Model", "m", "{storageUri: 'python:a:b'}", version=version) for version in (1, 2))
EXPLAINER = loaded("Model", "e", "{explainer: {type: kernel_shap, modelRef: m}}")
PIPELINE, PIPELINE_2 = (loaded("Pipeline", "p", "{steps: [{name: m}]}", version=version) for version in (1, 2))


def held(*resources: Loaded) -> dict[Key, Loaded]:
    return {each.key: each for each in resources}


def standing(*resources: Loaded, taken_up: tuple[Loaded, ...] = ()) -> Standing:
    return Standing(held(*resources), {each.key[1]: each for each in taken_up})


@pytest.mark.parametrize("taken_up", [(MODEL_2,), (replace(MODEL_2),)])
def test_a_model_has_settled_once_it_was_taken_up_as_it_stands(taken_up: tuple[Loaded, ...]) -> None:
    assert standing(MODEL_2, taken_up=taken_up).settled(["m"])


@pytest.mark.parametrize("taken_up", [(), (MODEL,)])
def test_a_model_that_was_not_taken_up_as_it_stands_has_not(taken_up: tuple[Loaded, ...]) -> None:
    assert not standing(MODEL_2, taken_up=taken_up).settled(["m"])


def test_a_model_that_nobody_knows_is_not_waited_for() -> None:
    assert standing().settled(["m"])
    assert standing(taken_up=(MODEL,)).settled(["m"])


def test_all_models_have_to_settle() -> None:
    found = standing(MODEL, EXPLAINER, taken_up=(MODEL,))
    assert not found.settled(["m", "e"])
    assert found.settled(["m"])
    assert found.settled([])


def test_a_model_is_loaded_when_it_is_new_or_another() -> None:
    assert standing(MODEL).calls_for_model(MODEL, None)
    assert standing(MODEL_2, taken_up=(MODEL,)).calls_for_model(MODEL_2, None)
    assert not standing(MODEL, taken_up=(replace(MODEL),)).calls_for_model(MODEL, None)


def test_an_explainer_waits_for_what_it_explains() -> None:
    assert not standing(MODEL, EXPLAINER).calls_for_model(EXPLAINER, None)
    assert not standing(MODEL_2, EXPLAINER, taken_up=(MODEL,)).calls_for_model(EXPLAINER, None)
    assert standing(MODEL, EXPLAINER, taken_up=(MODEL,)).calls_for_model(EXPLAINER, None)


def test_an_explainer_is_loaded_anew_with_what_it_explains_though_that_is_equal() -> None:
    taken_up = (MODEL, EXPLAINER)
    assert not standing(*taken_up, taken_up=taken_up).calls_for_model(EXPLAINER, MODEL)
    assert standing(*taken_up, taken_up=taken_up).calls_for_model(EXPLAINER, replace(MODEL))


def test_an_explainer_of_a_pipeline_waits_for_nothing() -> None:
    explainer = loaded("Model", "e", "{explainer: {type: kernel_shap, pipelineRef: p}}")
    assert standing(MODEL, PIPELINE, explainer).calls_for_model(explainer, None)
    assert not standing(MODEL, PIPELINE, explainer, taken_up=(explainer,)).calls_for_model(explainer, None)


def test_a_pipeline_takes_the_place_of_its_version_when_the_models_are_there() -> None:
    assert not standing(MODEL, PIPELINE_2).calls_for_pipeline(PIPELINE_2, PIPELINE, 0)
    assert standing(MODEL, PIPELINE_2, taken_up=(MODEL,)).calls_for_pipeline(PIPELINE_2, PIPELINE, 0)
    assert not standing(MODEL, PIPELINE, taken_up=(MODEL,)).calls_for_pipeline(PIPELINE, PIPELINE, 0)


def test_a_pipeline_starts_anew_when_its_requests_wait_for_another_number_of_pipelines() -> None:
    explainer = loaded("Model", "m", "{explainer: {type: kernel_shap, pipelineRef: q}}")
    asked = loaded("Pipeline", "q", "{steps: [{name: k}], output: {steps: [k]}}")
    found = standing(explainer, asked, PIPELINE, taken_up=(explainer,))
    assert [found.calls_for_pipeline(PIPELINE, PIPELINE, depth) for depth in (0, 1)] == [True, False]
    assert [depth_of(name, found.resources) for name in ("p", "q")] == [1, 0]
