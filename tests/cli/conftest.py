"""Commands see nothing of the developer's: no configs, no sessions, no settings of the shell, no files beside them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS_PREFIXES = ("SELDON_", "KAFKA_", "POD_NAMESPACE")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has set nothing; tests run in an empty folder of it."""
    folder = tmp_path_factory.mktemp("home")
    here = folder / "here"
    here.mkdir()
    for name in [name for name in os.environ if name.startswith(SETTINGS_PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(here)
    return folder
