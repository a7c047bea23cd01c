"""What the state of one resource follows from those of others: a pipeline's and an explainer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from engine.kafka.view import CREATING, FAILED, READY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.kafka.view import View
    from engine.resources import Explainer, Pipeline

# A state and its reason.
Told: TypeAlias = "tuple[str, str]"


def of_pipeline(pipeline: Pipeline, models: Mapping[str, Told], view: View) -> Told:
    """The state of a pipeline whose worker runs, by the states of the models of its steps in this process."""
    for step in pipeline.steps:
        state, reason = _of_model(step.name, models, view)
        if state == CREATING:
            return CREATING, reason
        if state == FAILED:
            return FAILED, f'model "{step.name}": {reason}'
    return READY, "created pipeline"


def of_explainer(explainer: Explainer, models: Mapping[str, Told], view: View, now: float) -> Told:
    """The state of an explainer that is loaded: it is as ready as what it explains."""
    if explainer.model_ref:
        state, reason = _of_model(explainer.model_ref, models, view)
        explained = f'model "{explainer.model_ref}"'
    else:
        state, reason = _of_pipeline_elsewhere(explainer.pipeline_ref, view, now)
        explained = f'pipeline "{explainer.pipeline_ref}"'
    return (READY, "loaded") if state == READY else (state, f"what it explains, {explained}: {reason}")


def _of_model(name: str, models: Mapping[str, Told], view: View) -> Told:
    if name in models:
        return models[name]
    if ("model", name) in view.resources:
        return CREATING, f'model "{name}" is loading'
    return FAILED, "it is not loaded"


def _of_pipeline_elsewhere(name: str, view: View, now: float) -> Told:
    """A pipeline's as all instances together tell it: any of them may answer the explainer."""
    if ("pipeline", name) not in view.resources:
        return FAILED, "it is not loaded"
    said = view.state(("pipeline", name), now)
    if said is None:
        return CREATING, view.silence(now)
    return (said.state if said.state in (READY, CREATING) else FAILED), said.reason
