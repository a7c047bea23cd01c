"""Models that the golden print-outs call."""

from __future__ import annotations

from typing import Any


def double(x: Any) -> dict[str, Any]:
    """Twice x, as y."""
    return {"y": 2 * x}


def broken(x: Any) -> dict[str, Any]:  # noqa: ARG001  parameters are tensors' names
    """Fails whatever x is."""
    raise RuntimeError("it broke")
