"""What is loaded, drawn from the compiled plans: what is shown is what runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.dataflow.compiler import compile_pipeline
from engine.dataflow.external import compile_input
from engine.dataflow.plan import ENTRY
from engine.kafka.view import describe
from engine.protocol.record import Side
from engine.resources import Experiment, Model, Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.dataflow.external import Upstream
    from engine.dataflow.plan import Edge, Node, Plan
    from engine.kafka.view import Key, Loaded, View

Data: TypeAlias = "dict[str, Any]"


def of_pipeline(name: str, side: Side) -> str:
    """The id of the node that stands for one of a pipeline's two topics; that of a step is its name."""
    return f"{name}.{side}"


class Graphs:
    """Draws what is loaded; a pipeline is compiled once for each load of it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._drawn: dict[Key, tuple[Loaded, Data]] = {}

    def state(self, now: float) -> tuple[Any, ...]:
        """Differs from what it was when the graphs, or the states of what they show, have changed."""
        states = []
        for key, loaded in sorted(self._view.resources.items()):
            state = self._view.state(key, now)
            states.append((key, loaded.offset, state and (state.state, state.reason)))
        return tuple(states)

    async def document(self, now: float) -> Data:
        """All pipelines, models and experiments, by name."""
        for loaded in list(self._view.resources.values()):
            if isinstance(loaded.resource, Pipeline) and self._draw(loaded.key, loaded, loaded.resource):
                # To compile two hundred takes 0.1 s, in which requests are to go on.
                await asyncio.sleep(0)
        found: dict[type, list[Data]] = {Pipeline: [], Model: [], Experiment: []}
        for key, loaded in sorted(self._view.resources.items()):
            told = {**describe(self._view, key, now), **self._particulars(loaded)}
            found[type(loaded.resource)].append(told)
        for key in self._drawn.keys() - self._view.resources.keys():
            del self._drawn[key]
        return {"pipelines": found[Pipeline], "models": found[Model], "experiments": found[Experiment]}

    def _particulars(self, loaded: Loaded) -> Data:
        resource = loaded.resource
        if isinstance(resource, Experiment):
            return _experiment(resource)
        if isinstance(resource, Model):
            return {"explains": _explained(resource)}
        self._draw(loaded.key, loaded, resource)
        return self._drawn[loaded.key][1]

    def _draw(self, key: Key, loaded: Loaded, pipeline: Pipeline) -> bool:
        """Whether this load of a pipeline had to be drawn."""
        if key in self._drawn and self._drawn[key][0] is loaded:
            return False
        self._drawn[key] = (loaded, draw(pipeline))
        return True


def draw(pipeline: Pipeline) -> Data:
    """A pipeline's nodes and edges, those of what feeds it included; none when this release cannot compile it."""
    plan, _ = compile_pipeline(pipeline)
    upstream, _ = compile_input(pipeline)
    if plan is None:
        return {"nodes": [], "edges": [], "cyclic": False}
    nodes = [_node(plan, index, node) for index, node in enumerate(plan.nodes)]
    edges = [data for index, node in enumerate(plan.nodes) for data in _edges(plan, index, node)]
    if upstream is not None:
        nodes[ENTRY] |= _joining(upstream)
        nodes = [*_externals(upstream), *nodes]
        edges = [*_fed(upstream, nodes, of_pipeline(plan.name, Side.INPUTS)), *edges]
    return {"nodes": nodes, "edges": edges, "cyclic": any(node.cycle for node in plan.nodes)}


def _id(plan: Plan, index: int) -> str:
    if index == ENTRY:
        return of_pipeline(plan.name, Side.INPUTS)
    return of_pipeline(plan.name, Side.OUTPUTS) if index == plan.output_index else plan.nodes[index].name


def _node(plan: Plan, index: int, node: Node) -> Data:
    kind = "input" if index == ENTRY else "output" if index == plan.output_index else "step"
    batch = {"size": node.batch.size, "window_ms": node.batch.window_ms} if node.batch else None
    name = node.name if kind == "step" else None
    return {
        "id": _id(plan, index),
        "kind": kind,
        "label": name or _id(plan, index),
        "model": name,
        "batch": batch,
        **_joining(node),
    }


def _joining(node: Node | Upstream) -> Data:
    """How it waits for its sources, where it has several of a kind."""
    waits = len(node.edges) > 1
    return {
        "join": str(node.join) if waits else None,
        "triggers_join": str(node.triggers_join) if len(node.triggers) > 1 else None,
        "window": node.window if waits or node.triggers else None,
    }


def _edges(plan: Plan, index: int, node: Node) -> list[Data]:
    to = _id(plan, index)
    return [
        _edge(_id(plan, edge.source), to, kind, edge)
        for kind, edges in (("data", node.edges), ("trigger", node.triggers))
        for edge in edges
    ]


def _edge(source: str, to: str, kind: str, edge: Edge) -> Data:
    return {
        "from": source,
        "to": to,
        "kind": kind,
        "side": str(edge.side),
        "tensors": list(edge.tensors),
        "renames": dict(edge.renames),
        "back": edge.back,
    }


def _externals(upstream: Upstream) -> list[Data]:
    return [
        {"id": str(source), "kind": "external", "label": str(source), "model": None, "pipeline": source.pipeline}
        for source in upstream.sources
    ]


def _fed(upstream: Upstream, nodes: Sequence[Data], entry: str) -> list[Data]:
    return [
        _edge(nodes[edge.source]["id"], entry, kind, edge)
        for kind, edges in (("data", upstream.edges), ("trigger", upstream.triggers))
        for edge in edges
    ]


def _experiment(experiment: Experiment) -> Data:
    mirror = experiment.mirror
    return {
        "kind": str(experiment.resource_type),
        "default": experiment.default or None,
        "candidates": [{"name": each.name, "weight": each.weight} for each in experiment.candidates],
        "mirror": None if mirror is None else {"name": mirror.name, "percent": mirror.percent},
    }


def _explained(model: Model) -> Data | None:
    """Whose answers an explainer explains."""
    explainer = model.explainer
    if explainer is None:
        return None
    kind = "pipeline" if explainer.pipeline_ref else "model"
    return {"kind": kind, "name": explainer.pipeline_ref or explainer.model_ref}
