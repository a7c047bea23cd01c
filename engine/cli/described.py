"""A pipeline as the reference tells it in a status: references completed, what is not set left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.resources import Input, Output, Pipeline, Step

# How many parts a reference to another pipeline has before its side: <pipeline>, or <pipeline>.step.<step>.
_STEP_PARTS = 3


def pipeline(described: Pipeline, version: int) -> dict[str, Any]:
    """A pipeline with its steps in the order of their names."""
    name = described.name
    fed, output = described.input, described.output
    return {
        "name": name,
        "version": version,
        "steps": [_step(step, name) for step in sorted(described.steps, key=lambda step: step.name)],
        **({"output": _output(output, name)} if output is not None else {}),
        "kubernetesMeta": {},
        **({"input": _input(fed)} if fed is not None else {}),
        **_set(
            {
                "dataflow": {"cleanTopicsOnDelete": True} if described.clean_topics_on_delete else {},
                "allowCycles": described.allow_cycles,
                "maxStepRevisits": described.max_step_revisits,
            }
        ),
    }


def _step(step: Step, own: str) -> dict[str, Any]:
    batch = step.batch
    return {
        "name": step.name,
        **_set(
            {
                "inputs": _all_completed(step.inputs, own),
                "joinWindowMs": step.join_window_ms,
                "tensorMap": dict(step.tensor_map),
                "inputsJoin": _join(step.inputs_join),
                "triggers": _all_completed(step.triggers, own),
                "triggersJoin": _join(step.triggers_join),
                "batch": _set({"size": batch.size, "windowMs": batch.window_ms}) if batch is not None else {},
            }
        ),
    }


def _output(output: Output, own: str) -> dict[str, Any]:
    return _set(
        {
            "steps": _all_completed(output.steps, own),
            "joinWindowMs": output.join_window_ms,
            "stepsJoin": _join(output.steps_join),
            "tensorMap": dict(output.tensor_map),
        }
    )


def _input(fed: Input) -> dict[str, Any]:
    return _set(
        {
            "externalInputs": [_completed_external(text) for text in fed.external_inputs],
            "externalTriggers": [_completed_external(text) for text in fed.external_triggers],
            "joinWindowMs": fed.join_window_ms,
            "joinType": _join(fed.join_type),
            "triggersJoin": _join(fed.triggers_join_type),
            "tensorMap": dict(fed.tensor_map),
        }
    )


def _join(join: Join) -> str:
    """As protobuf's JSON writes an enumeration, whose first value is the default."""
    return "" if join is Join.INNER else join.value.upper()


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _all_completed(references: Iterable[str], own: str) -> list[str]:
    return [_completed(reference, own) for reference in references]


def _completed(reference: str, own: str) -> str:
    if "." in reference:
        return reference
    return f"{reference}.inputs" if reference == own else f"{reference}.outputs"


def _completed_external(reference: str) -> str:
    parts = reference.split(".")
    whole = _STEP_PARTS if parts[1:2] == ["step"] else 1
    return f"{reference}.outputs" if len(parts) == whole else reference
