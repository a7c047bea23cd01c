"""grpcurl, a gRPC client that nobody here wrote: the one on the PATH, or installed by Go into `tests/.tools`."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

MODULE = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
TOOLS = Path(__file__).parent / ".tools"
INSTALL_SECONDS = 300


def find() -> str | None:
    """The binary's path; None when it is nowhere and Go is not there to install it."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # runs side by side want it at one time
        found = shutil.which("grpcurl", path=os.pathsep.join([os.environ.get("PATH", ""), str(TOOLS)]))
        if found is not None or shutil.which("go") is None:
            return found
        subprocess.run(
            ["go", "install", MODULE],
            env={**os.environ, "GOBIN": str(TOOLS)},
            check=True,
            timeout=INSTALL_SECONDS,
            capture_output=True,
        )
    return str(TOOLS / "grpcurl")
