"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["aiokafka", "faust", "grpc", "numpy", "mlserver"])
def test_no_library_that_is_slow_to_import_comes_with_the_commands(library: str) -> None:
    code = f"import sys, engine.cli; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
