"""`seldon load` and what serves files, against what is loaded already on an embedded broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from engine.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Seldon = Callable[..., Result]
    Fed = Callable[..., str]


@pytest.fixture
def seldon(embedded_broker: str, namespace: str) -> Seldon:
    """A command in this test's own namespace."""

    def run(*arguments: str) -> Result:
        broker = ("--kafka-broker", embedded_broker, "--namespace", namespace)
        return CliRunner().invoke(main, [*arguments, *broker])

    return run


@pytest.fixture
def fed(tmp_path: Path) -> Fed:
    """Writes a pipeline that others feed, and gives its file."""

    def write(name: str, *sources: str) -> str:
        path = tmp_path / f"{name}.yaml"
        feed = f"  input: {{externalInputs: [{', '.join(sources)}]}}\n" if sources else ""
        path.write_text(
            f"apiVersion: mlops.seldon.io/v1alpha1\nkind: Pipeline\nmetadata: {{name: {name}}}\n"
            f"spec:\n{feed}  steps: [{{name: score}}]\n  output: {{steps: [score]}}\n"
        )
        return str(path)

    return write


def test_a_pipeline_is_loaded_after_those_that_feed_it(seldon: Seldon, fed: Fed) -> None:
    path = fed("second", "first")
    refused = seldon("load", "-f", path)
    assert refused.exit_code == 2
    assert refused.output == (
        f'{path}:5:28: the input of pipeline "second" reads "first"; no pipeline has that name\n'
        "    5 |   input: {externalInputs: [first]}\n"
        "      |                            ^^^^^ load it first, or in the same call\n"
        "\n"
        "Error: 1 problem, nothing was started or loaded\n"
    )
    assert "second" not in seldon("pipeline", "list").output
    assert seldon("load", "-f", fed("first")).exit_code == 0
    assert seldon("load", "-f", path).exit_code == 0


def test_a_load_that_would_close_a_cycle_is_refused_and_changes_nothing(seldon: Seldon, fed: Fed) -> None:
    assert seldon("load", "-f", fed("first")).exit_code == 0
    assert seldon("pipeline", "load", "-f", fed("second", "first")).exit_code == 0
    refused = seldon("pipeline", "load", "-f", fed("first", "second"))
    assert (refused.exit_code, "pipelines first, second feed each other in a cycle" in refused.output) == (2, True)
    assert '"version": 1' in seldon("pipeline", "status", "first").output


def test_a_pipeline_that_feeds_another_may_be_unloaded(seldon: Seldon, fed: Fed) -> None:
    assert seldon("load", "-f", fed("first")).exit_code == 0
    assert seldon("load", "-f", fed("second", "first")).exit_code == 0
    assert seldon("pipeline", "unload", "first").exit_code == 0
    assert "second" in seldon("pipeline", "list").output


@pytest.mark.parametrize("part", [["worker"], ["gateway", "--listen", "127.0.0.1:0"]], ids=lambda part: part[0])
def test_what_serves_a_pipeline_that_nothing_can_feed_does_not_start(seldon: Seldon, fed: Fed, part: list[str]) -> None:
    refused = seldon(*part, fed("second", "elsewhere"))
    assert (refused.exit_code, 'reads "elsewhere"; no pipeline has that name' in refused.output) == (2, True)
    assert "second" not in seldon("pipeline", "list").output
