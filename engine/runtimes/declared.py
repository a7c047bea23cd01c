"""What a remote server says that its model takes, and whether a request fits it.

A request that the server would take must never be refused here. So nothing is said of tensors that are missing, since
servers do not tell which inputs are optional; what a server leaves open is open; and a server that may have loaded
another version meanwhile is asked again before anything is refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidInput, RequestError
from engine.protocol.columns import TensorSpec
from engine.protocol.tensors import DATATYPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

# A model that is given what it does not take, again and again, costs its server so many questions a second.
REREAD_SECONDS = 1.0

# A request waits no longer for what a server says of its model; it is then for the server to judge.
LOOK_SECONDS = 0.5

# Servers whose metadata is a description and no contract: MLServer and KServe hand their models whatever comes,
# OpenVINO may reshape a model to what it is given, and our own pipelines tell what is known of their steps.
DESCRIBING = frozenset({"mlserver", "kserve", "openvino model server", "millrace"})


class Declared:
    """What a model's server says of its inputs: read once, and again when there is reason to doubt it.

    metadata     asks for the model's `ModelMetadataResponse`; its failures are RequestErrors
    server_name  asks what the server calls itself; likewise
    """

    def __init__(
        self, model: str, metadata: Callable[[], Awaitable[Any]], server_name: Callable[[], Awaitable[str]]
    ) -> None:
        self._model, self._metadata, self._server_name = model, metadata, server_name
        self._inputs: Mapping[str, TensorSpec] = {}
        self._read_at: float | None = None
        self._doubted = True
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def doubt(self) -> None:
        """The server was away, or has refused what it seemed to take: it may have loaded another version."""
        self._doubted = True

    async def look(self) -> None:
        """Read it when it was never read or is in doubt. Nothing waits for this but whoever asks for readiness."""
        if self._doubted:
            await self._read(LOOK_SECONDS)

    async def refusal(self, specs: Sequence[TensorSpec], timeout: float) -> InvalidInput | None:
        """Why the model does not take such tensors; None when it may. Of `timeout` seconds at most half are used."""
        patience = min(LOOK_SECONDS, timeout / 4)
        if self._read_at is None:
            await self._read(patience)
        if mismatch(self._inputs, specs) is None:
            return None
        before = self._read_at or 0.0
        if asyncio.get_running_loop().time() - before >= REREAD_SECONDS and not await self._read(patience):
            return None
        text = mismatch(self._inputs, specs)
        return None if text is None else InvalidInput(f'model "{self._model}" {text}')

    async def _read(self, seconds: float) -> bool:
        """Ask the server, or wait for the question that is out; whether the answer has come in time."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({self._task}, timeout=seconds)
        return bool(done)

    async def _ask(self) -> None:
        self._doubted = False
        try:
            self._inputs = await self._asked()
        except RequestError:
            # Nothing is known of a server that does not say.
            self._inputs = {}
        self._read_at = asyncio.get_running_loop().time()

    async def _asked(self) -> Mapping[str, TensorSpec]:
        inputs = (await self._metadata()).inputs
        if not inputs or (await self._name()).lower() in DESCRIBING:
            return {}
        return {tensor.name: TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in inputs}

    async def _name(self) -> str:
        try:
            return await self._server_name()
        except RequestError:
            return ""


def mismatch(inputs: Mapping[str, TensorSpec], specs: Sequence[TensorSpec]) -> str | None:
    """What is wrong with tensors for a model of these inputs, in words; None when they fit, or nobody can tell.

    An unknown datatype, a shape that is empty and dimensions below 1 fit all.
    """
    if not inputs:
        return None
    for spec in specs:
        wanted = inputs.get(spec.name)
        if wanted is None:
            takes = ", ".join(map(_told, inputs.values()))
            return f'has no input "{spec.name}"; it takes {takes}; rename with tensorMap'
        if not _fits(wanted, spec):
            return f"takes {_told(wanted)} and was given {spec.datatype} {list(spec.shape)}"
    return None


def _fits(wanted: TensorSpec, given: TensorSpec) -> bool:
    if wanted.datatype in DATATYPES and wanted.datatype != given.datatype:
        return False
    if not wanted.shape:
        return True
    sizes = zip(wanted.shape, given.shape, strict=False)
    return len(wanted.shape) == len(given.shape) and all(size < 1 or size == found for size, found in sizes)


def _told(spec: TensorSpec) -> str:
    shape = f" {list(spec.shape)}" if spec.shape else ""
    return f'"{spec.name}" {spec.datatype}{shape}'.rstrip()
