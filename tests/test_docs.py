"""The documentation of pipelines: its pictures are what the command prints, and no field is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.resources import pipeline

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "pipelines.md").read_text()
PICTURES = re.findall(
    r"`(pipelines/[-a-z]+\.yaml)`(?:, pipeline `([-a-z]+)`)?:\n\n```mermaid\n(.*?)```", TEXT, re.DOTALL
)
FIELDS = sorted(
    {
        *pipeline._FIELDS,
        *pipeline._STEP_FIELDS,
        *pipeline._BATCH_FIELDS,
        *pipeline._INPUT_FIELDS,
        *pipeline._OUTPUT_FIELDS,
    }
)


def test_every_picture_names_its_file() -> None:
    assert len(PICTURES) == TEXT.count("```mermaid")


@pytest.mark.parametrize(("file", "name", "drawn"), PICTURES, ids=[name or file for file, name, _ in PICTURES])
def test_a_picture_is_what_the_command_prints(file: str, name: str, drawn: str) -> None:
    chosen = ["--name", name] if name else []
    result = CliRunner().invoke(main, ["pipeline", "graph", str(ROOT / file), *chosen, "--format", "mermaid"])
    assert result.output == drawn


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_explained(field: str) -> None:
    assert re.search(rf"[`.]{field}[`:]", TEXT)
