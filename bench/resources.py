"""Models and pipelines as YAML, for works of any size."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

API = "apiVersion: mlops.seldon.io/v1alpha1"
ADD_SUB = "python:pipelines.models:add_sub"

# What each of the models of tfsimples.yaml asks for, too.
MOST_ROWS = {"max_batch_size": "8192"}

# What makes one model's sum and difference the next one's inputs.
ONWARD = "{{{0}.outputs.OUTPUT0: INPUT0, {0}.outputs.OUTPUT1: INPUT1}}"


def model(name: str, uri: str, parameters: dict[str, str] | None = None, requirements: str = "") -> str:
    """One Model."""
    written = ", ".join(f"{{name: {key}, value: '{value}'}}" for key, value in (parameters or {}).items())
    lines = [f"{API}\nkind: Model\nmetadata: {{name: {name}}}\nspec:\n  storageUri: {uri}"]
    lines += [f"  parameters: [{written}]"] * bool(parameters) + [f"  requirements: [{requirements}]"] * bool(
        requirements
    )
    return "\n".join((*lines, "---\n"))


def pipeline(name: str, steps: Sequence[str], output: str, rest: str = "") -> str:
    """One Pipeline of steps that are written as in `name: s, inputs: [t]`."""
    listed = "\n".join(f"    - {{{step}}}" for step in steps)
    head = f"{API}\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n  steps:\n{listed}\n"
    return f"{head}  output: {{steps: [{output}]{rest}}}\n---\n"


def chain(name: str, models: Sequence[str]) -> str:
    """A Pipeline of models one after the other, each with the sum and the difference of the one before."""
    onward = [
        f"name: {then}, inputs: [{first}], tensorMap: {ONWARD.format(first)}"
        for first, then in itertools.pairwise(models)
    ]
    return pipeline(name, [f"name: {models[0]}", *onward], models[-1])
