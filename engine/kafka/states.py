"""What the states of models and pipelines follow from: what is seen of them here, and the states of others. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from engine.kafka.view import CREATING, FAILED, READY
from engine.resources import Model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.kafka.view import Loaded, State, View
    from engine.resources import Explainer, Pipeline

# A state and its reason.
Told: TypeAlias = "tuple[str, str]"


def of_model(lost: str, *, ready: bool) -> Told:
    """The state of a model that has been loaded.

    lost    what is wrong with its topics, in words; nothing when nothing is
    ready   whether it says that it would answer
    """
    reason = lost or ("" if ready else "the model does not answer that it is ready")
    return (FAILED, reason) if reason else (READY, "loaded")


def is_news(loaded: Loaded, said: State | None) -> bool:
    """Whether it has not been said yet that a model is ready as it stands, nor, then, what its tensors are."""
    return said is None or (said.offset, said.state) != (loaded.offset, READY)


def of_models(seen: Sequence[tuple[Loaded, Told]], view: View, now: float) -> list[Told]:
    """The states of models, by how each was seen alone: an explainer is no readier than what it explains."""
    models = {loaded.key[1]: told for loaded, told in seen}
    found = []
    for loaded, told in seen:
        explainer = loaded.resource.explainer if isinstance(loaded.resource, Model) else None
        whole = told if explainer is None or told[0] != READY else of_explainer(explainer, models, view, now)
        models[loaded.key[1]] = whole
        found.append(whole)
    return found


def of_worker(refusal: str, *, crashed: bool, assigned: bool) -> Told | None:
    """The state of a pipeline whose worker cannot answer yet, or any more; None when it can.

    refusal    why it leaves its work to a newer release; nothing when it does not
    assigned   whether its group has given it its part
    """
    if crashed:
        return FAILED, "its consumer has fallen over and is being replaced"
    if refusal:
        return FAILED, refusal
    return None if assigned else (CREATING, "joining its consumer group")


def of_pipeline(pipeline: Pipeline, models: Mapping[str, Told], view: View) -> Told:
    """The state of a pipeline whose worker can answer, by the states of the models of its steps in this process."""
    for step in pipeline.steps:
        state, reason = _of_named(step.name, models, view)
        if state == CREATING:
            return CREATING, reason
        if state == FAILED:
            return FAILED, f'model "{step.name}": {reason}'
    return READY, "created pipeline"


def of_explainer(explainer: Explainer, models: Mapping[str, Told], view: View, now: float) -> Told:
    """The state of an explainer that is loaded: it is as ready as what it explains."""
    if explainer.model_ref:
        state, reason = _of_named(explainer.model_ref, models, view)
        explained = f'model "{explainer.model_ref}"'
    else:
        state, reason = _of_pipeline_elsewhere(explainer.pipeline_ref, view, now)
        explained = f'pipeline "{explainer.pipeline_ref}"'
    return (READY, "loaded") if state == READY else (state, f"what it explains, {explained}: {reason}")


def _of_named(name: str, models: Mapping[str, Told], view: View) -> Told:
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
