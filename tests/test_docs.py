"""The documentation of pipelines: its pictures and examples are what the commands print, and no field is left out."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
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
EXAMPLES = re.findall(r"```console\n\$ (seldon pipeline try [^\n]*)\n(.*?)```", TEXT, re.DOTALL)
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


def parts(printed: str) -> list[str]:
    """What passed each place; places that are reached side by side are told in either order."""
    return sorted(re.split(r"\n(?! )", printed.rstrip()))


def test_every_sample_without_input_has_an_example() -> None:
    drawn_alone = [file for file, name, _ in PICTURES if not name]
    assert [shlex.split(command)[3] for command, _ in EXAMPLES] == drawn_alone


@pytest.mark.parametrize(("command", "printed"), EXAMPLES, ids=[shlex.split(command)[3] for command, _ in EXAMPLES])
def test_an_example_prints_what_the_page_says(command: str, printed: str) -> None:
    # A process of its own: a try imports the samples' `models`, and other tests have modules of that name.
    seldon, *arguments = shlex.split(command)
    done = subprocess.run(
        [Path(sys.executable).with_name(seldon), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (parts(done.stdout), done.stderr) == (parts(printed), "")


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_explained(field: str) -> None:
    assert re.search(rf"[`.]{field}[`:]", TEXT)


def test_the_page_of_commands_is_made_from_what_they_say_now() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    assert (ROOT / "docs" / "cli.md").read_text() == made.page(main), "`make docs` writes it anew"
