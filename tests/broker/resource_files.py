"""Resource files that tests write: a pipeline `numbers` of one model `number`, with a module of its own."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PIPELINE = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata:
  name: number
spec:
  storageUri: python:{module}:model
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata:
  name: numbers
spec:
  steps:
    - name: number
  output:
    steps:
      - number
"""

SECOND_STEP = """\
    - name: second
      inputs:
        - number
      tensorMap:
        number.outputs.OUTPUT: INPUT
"""


def write(folder: Path, source: str) -> Path:
    """A file with a model of this source and its pipeline; the module's name is new, as Python imports a name once."""
    folder.mkdir(exist_ok=True)
    module = f"number_{secrets.token_hex(4)}"
    (folder / f"{module}.py").write_text(source)
    path = folder / "numbers.yaml"
    path.write_text(PIPELINE.format(module=module))
    return path


def copy(path: Path, *, model: str, pipeline: str) -> Path:
    """The same model and pipeline under other names, in a file beside it."""
    text = path.read_text().replace("name: numbers", f"name: {pipeline}")
    copied = path.with_name(f"{pipeline}.yaml")
    copied.write_text(text.replace("name: number\n", f"name: {model}\n").replace("- number\n", f"- {model}\n"))
    return copied


def add_step(path: Path) -> None:
    """Change the pipeline in this file: a second step, with the same model under another name."""
    model, pipeline = path.read_text().split("---\n")
    second = model.replace("name: number", "name: second")
    pipeline = pipeline.replace("      - number\n", "      - second\n").replace("  output:", f"{SECOND_STEP}  output:")
    path.write_text(f"{model}---\n{second}---\n{pipeline}")
