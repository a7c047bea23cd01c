"""MLServer's inference runtimes in this process: an artefact and a model class of theirs, without their server.

Their coroutines run on an event loop of their own in the thread that calls them, so a model that computes for long
holds up nothing of ours.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InvalidInput, ModelFailed, RuntimeUnavailable
from engine.protocol import tensors
from engine.runtimes.inprocess import Function

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.runtimes.inprocess import Array, Arrays

# What `spec.requirements` names, and the class that serves it.
IMPLEMENTATIONS = {"sklearn": "mlserver_sklearn.SKLearnModel"}


def load(name: str, requirement: str, artefact: Path, parameters: Mapping[str, str]) -> Function:
    """Make MLServer's model class for the artefact and load it.

    Raises RuntimeUnavailable when the extra is missing, the artefact is, or the class refuses it.
    """
    if not artefact.exists():
        raise RuntimeUnavailable(name, f"the artefact {artefact} does not exist")
    module_name, _, class_name = IMPLEMENTATIONS[requirement].rpartition(".")
    try:
        settings = importlib.import_module("mlserver.settings")
        cls = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise RuntimeUnavailable(
            name, f'"{requirement}" needs {error.name}; pip install "millrace[runtimes]"'
        ) from error
    try:
        model = cls(
            settings.ModelSettings(
                name=name,
                implementation=cls,
                parameters=settings.ModelParameters(uri=str(artefact), extra=dict(parameters) or None),
            )
        )
        asyncio.run(model.load())
    except Exception as error:
        raise RuntimeUnavailable(name, f"loading {artefact} raised {type(error).__name__}: {error}") from error
    caller = _Caller(name, model)
    return Function(caller, None, f"mlserver_{requirement}", caller.close)


class _Caller:
    """Calls a loaded MLServer model with arrays."""

    def __init__(self, name: str, model: Any) -> None:
        self._name, self._model = name, model
        self._types = importlib.import_module("mlserver.types")
        self._codec = importlib.import_module("mlserver.codecs").NumpyCodec
        self._refusal = importlib.import_module("mlserver.errors").InferenceError
        self._local = threading.local()
        self._runners: list[asyncio.Runner] = []

    def __call__(self, arrays: Arrays) -> Sequence[tuple[str, Array]]:
        request = self._types.InferenceRequest(inputs=[self._input(*item) for item in arrays.items()])
        try:
            answer = self._runner().run(self._model.predict(request))
        except (self._refusal, ValueError) as error:
            # scikit-learn and MLServer say with these that the tensors are not what the model was made for.
            raise InvalidInput(f"{error}") from error
        if not answer.outputs:
            raise ModelFailed(f'model "{self._name}" gave no outputs')
        return [(output.name, self._array(output)) for output in answer.outputs]

    def close(self) -> None:
        """Close the event loops of the threads that have called."""
        for runner in self._runners:
            runner.close()

    def _runner(self) -> asyncio.Runner:
        """This thread's event loop: to make one for each call would cost more than most models do."""
        runner: asyncio.Runner | None = getattr(self._local, "runner", None)
        if runner is None:
            runner = self._local.runner = asyncio.Runner()
            self._runners.append(runner)
        return runner

    def _input(self, name: str, array: Array) -> Any:
        datatype = tensors.datatype_of(array)
        # A list would be checked element by element; the array is what MLServer's codec makes of it in the end.
        data = self._types.TensorData.model_construct(root=array.reshape(-1) if datatype != "BYTES" else array.tolist())
        return self._types.RequestInput(name=name, shape=list(array.shape), datatype=datatype, data=data)

    def _array(self, output: Any) -> Array:
        if str(getattr(output.datatype, "value", output.datatype)) == "BYTES":
            elements = np.empty(len(output.data), dtype=object)
            elements[:] = [tensors.element_bytes(element) for element in output.data]
            return elements.reshape(output.shape)
        array: Array = self._codec.decode_output(output)
        return array
