"""grpcurl, a gRPC client that nobody here wrote: the one on the PATH, or installed by Go into `tests/.tools`."""

from __future__ import annotations

import os
import shutil
import subprocess

from locks import TOOLS, made_by_one

MODULE = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
INSTALL_SECONDS = 300


def find() -> str | None:
    """The binary's path; None when it is nowhere and Go is not there to install it."""
    with made_by_one("grpcurl"):
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
