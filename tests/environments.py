"""Environments of their own for what cannot be installed beside the product, or must not weigh on it.

Each is made once, of pinned packages, and again when these change.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from locks import made_by_one

ROOT = Path(__file__).resolve().parents[1]

INSTALL_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment: what is in it, where it is, and the packages that it is made of."""

    title: str
    folder: Path
    requirements: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def ensure(self) -> str | None:
        """Make the environment unless it is there; what keeps it from being made, or None."""
        with made_by_one(self.folder.name):
            return self._ensure()

    def _ensure(self) -> str | None:
        # Written last, with what was asked for: half an installation is none.
        stamp = self.folder / ".installed"
        if stamp.is_file() and stamp.read_text() == self.requirements.read_text():
            return None
        shutil.rmtree(self.folder, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(self.folder)],
            [
                *(str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--requirement", str(self.requirements)),
            ],
        ):
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
            except subprocess.TimeoutExpired:
                return f"pip did not end within {INSTALL_SECONDS} s"
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines()[-1:]
                return f"{self.title} cannot be installed: {' '.join(said)}"
        stamp.write_text(self.requirements.read_text())
        return None


# kserve cannot be installed beside MLServer.
KSERVE = Environment("kserve's clients", ROOT / ".venv-kserve", ROOT / "tests" / "contract" / "kserve-requirements.txt")
