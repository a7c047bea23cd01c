"""Other people's programs, each in a process of its own: their V2 messages collide with each other's."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from typing import Any

DEADLINE = 60


async def run(*command: str, stdin: str = "") -> str:
    """What a program prints; its complaints, and the failure of the test, when it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{' '.join(command[:3])}: {err.decode()[-3000:]}"
    return out.decode()


async def python(script: str, *arguments: str) -> Any:
    """The JSON that a Python script prints."""
    return json.loads(await run(sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), *arguments))
