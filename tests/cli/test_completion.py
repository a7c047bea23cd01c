"""What shells complete, by the scripts that the command prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import main

SELDON = Path(sys.executable).with_name("seldon")


def script(shell: str) -> str:
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_calls_the_command_by_its_name(shell: str) -> None:
    assert f"_SELDON_COMPLETE={shell}_complete" in script(shell)


def test_another_shell_is_wrong_input() -> None:
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2


def test_bash_completes_a_verb() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    # As bash does it on a tab: the words so far, and which of them is being written.
    asked = (
        f"{script('bash')}\nCOMP_WORDS=(seldon pipeline insp)\nCOMP_CWORD=2\n"
        '_seldon_completion seldon\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", asked],
        env={**os.environ, "PATH": f"{SELDON.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["inspect"], done.stderr
