"""The peers' environment, `.venv-bench`: Quix Streams, FastStream and Bytewax do not weigh on the product's own.

It is made once, of the pinned packages of `bench/peers/requirements.txt`, and again when these change.
`python -m bench.environment` makes it and says what keeps it from being made.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from bench import ROOT

REQUIREMENTS = ROOT / "bench" / "peers" / "requirements.txt"
FOLDER = ROOT / ".venv-bench"
PYTHON = FOLDER / "bin" / "python"
# Written last, with what was asked for: half an installation is none.
STAMP = FOLDER / ".installed"

INSTALL_SECONDS = 600


def ensure() -> str | None:
    """Make the environment unless it is there; what keeps it from being made, or None."""
    if STAMP.is_file() and STAMP.read_text() == REQUIREMENTS.read_text():
        return None
    shutil.rmtree(FOLDER, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(FOLDER)],
        [
            *(str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--requirement", str(REQUIREMENTS)),
        ],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            return f"pip did not end within {INSTALL_SECONDS} s"
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            return f"the peers cannot be installed: {' '.join(said)}"
    STAMP.write_text(REQUIREMENTS.read_text())
    return None


if __name__ == "__main__":
    sys.exit(ensure())
