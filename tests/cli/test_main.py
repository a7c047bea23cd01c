"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from engine import app
from engine.cli import main


@pytest.mark.parametrize("library", ["aiokafka", "faust", "grpc", "numpy", "mlserver"])
def test_no_library_that_is_slow_to_import_comes_with_the_commands(library: str) -> None:
    code = f"import sys, engine.cli; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Ctrl-C while a module of the commands is read.
INTERRUPTED = """
import sys

class Finder:
    def find_spec(name, path, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder)
from engine.cli import main
"""


@pytest.mark.parametrize("module", ["engine.cli.main", "engine.cli.bench", "engine.resources", "click"])
def test_an_interrupt_while_the_commands_are_read_leaves_no_trace(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupted_command_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "read", interrupt)
    result = CliRunner().invoke(main, ["pipeline", "graph", "pipelines/tfsimples.yaml"])
    assert (result.exit_code, result.output) == (130, "\n")
