"""Modules of the tests that the bench uses too."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from bench import ROOT

if TYPE_CHECKING:
    from types import ModuleType


def load(name: str) -> ModuleType:
    """tests/NAME.py by its path: `tests` is no package, and other distributions install one of that name."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# What others of them import.
load("locks")
