"""The peers' environment, `.venv-bench`: Quix Streams, FastStream and Bytewax do not weigh on the product's own.

`python -m bench.environment` makes it and says what keeps it from being made.
"""

from __future__ import annotations

import sys
from typing import Any

from bench import ROOT, suite

REQUIREMENTS = ROOT / "bench" / "peers" / "requirements.txt"
PEERS: Any = suite.load("environments").Environment("the peers", ROOT / ".venv-bench", REQUIREMENTS)

if __name__ == "__main__":
    sys.exit(PEERS.ensure())
