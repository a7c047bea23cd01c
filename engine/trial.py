"""A pipeline tried out in this process: its runtimes and its plan, and no broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.dataflow.compiler import compile_pipeline
from engine.errors import InvalidResources, RequestError, RuntimeUnavailable, TimedOut, UnknownResource
from engine.execution import Execution
from engine.protocol import columns as col
from engine.protocol.record import ERROR_CODE, Owner, Side, Topics, header, sort_out
from engine.runtimes import choice
from engine.runtimes.explainers import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.execution import Request
    from engine.resources import Model, Pipeline
    from engine.runtimes.contract import Runtime
    from engine.settings import Settings

_TOPICS = Topics("trial", "trial")


@dataclass(frozen=True, slots=True)
class Passed:
    """What passed one place, `step.inputs`, `step.outputs` or `outputs`: a message, or an error's text."""

    place: str
    message: Any
    error: str | None = None


async def run(
    pipeline: Pipeline, models: Mapping[str, tuple[Model, Path]], message: Any, settings: Settings
) -> tuple[list[Passed], RequestError | None]:
    """Load the pipeline's models, run one request, and give what passed each place, and the error that ended it.

    `models` has each model with the folder of its file. Raises InvalidResources, RuntimeUnavailable, InvalidInput, or
    UnknownResource for a step whose model is not there.
    """
    plan, problems = compile_pipeline(pipeline)
    if plan is None:
        raise InvalidResources(problems)
    columns = col.from_message(message, col.REQUEST)
    runtimes = await _load(pipeline, models, settings)
    execution = Execution(
        plan,
        1,
        Owner.PIPELINE,
        _TOPICS,
        runtimes.__getitem__,
        finished=lambda _: None,
        answered=lambda _: None,
        timeout=settings.request_timeout,
        batch_max_wait=settings.batch_max_wait,
        max_message_bytes=settings.max_message_bytes,
        new_request_id=lambda: "trial",
    )
    request = execution.new_request(None, 0, 0, None, sort_out(()), 0)
    try:
        execution.begin([request], columns)
        async with asyncio.timeout(settings.request_timeout * max(1, len(plan.steps)) * plan.max_visits):
            # No other request will come: nothing waits in a batch.
            await execution.drain()
    except TimeoutError:
        return _passed(request), TimedOut(
            f"the pipeline gave no answer in {settings.request_timeout:g} s for each step"
        )
    finally:
        execution.cancel()
        await asyncio.gather(*(runtime.unload() for runtime in runtimes.values()))
    return _passed(request), execution.outcome(request)


async def _load(pipeline: Pipeline, models: Mapping[str, tuple[Model, Path]], settings: Settings) -> dict[str, Runtime]:
    """The models of the steps, and those that explainers among them explain, which are loaded first."""
    explainers = {
        step.name: explainer
        for step in pipeline.steps
        if step.name in models and (explainer := models[step.name][0].explainer) is not None
    }
    for name, explainer in explainers.items():
        if explainer.pipeline_ref:
            raise RuntimeUnavailable(name, "it explains a pipeline, and only one is tried here; run `seldon up`")
    runtimes: dict[str, Runtime] = {}
    for name in (*(explainer.model_ref for explainer in explainers.values()), *(step.name for step in pipeline.steps)):
        if name not in models:
            raise UnknownResource(f'no model "{name}" in the files that were named')
        model, folder = models[name]
        asked = Asked(model.explainer.model_ref, runtimes.get) if model.explainer is not None else None
        runtimes[name] = choice.make(model, folder, settings, trusted=True, explained=asked)
    plain = [runtime for name, runtime in runtimes.items() if name not in explainers]
    await asyncio.gather(*(runtime.load() for runtime in plain))
    await asyncio.gather(*(runtimes[name].load() for name in explainers))
    return runtimes


def _passed(request: Request) -> list[Passed]:
    found = []
    for topic, _, value, headers in request.records:
        place, kind = _place(topic)
        if header(headers, ERROR_CODE) is None:
            found.append(Passed(place, kind.message.FromString(value)))
        elif topic == _TOPICS.errors:
            found.append(Passed(place, None, value.decode("utf-8", "replace")))
    return found


def _place(topic: str) -> tuple[str, col.Kind]:
    if topic == _TOPICS.errors:
        return "error", col.RESPONSE
    _, _, owner, name, side = topic.split(".")
    kind = col.REQUEST if side == Side.INPUTS else col.RESPONSE
    return (side if owner == Owner.PIPELINE else f"{name}.{side}"), kind
