"""MLServer's inference runtimes in this process: an artefact and a model class of theirs, without their server.

Their coroutines run on an event loop of their own in the thread that calls them, so a model that computes for long
holds up nothing of ours.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import threading
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InvalidInput, ModelFailed, RuntimeUnavailable
from engine.protocol import tensors
from engine.protocol.columns import TensorSpec
from engine.protocol.rest_json import BASE64, TEXT
from engine.runtimes import modules
from engine.runtimes.function import Function

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.runtimes.function import Array, Arrays

# What `spec.requirements` names, and the class that serves it.
IMPLEMENTATIONS = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
}

# The requirement that leaves the class to the parameter `implementation`, or to the artefact's own settings.
ANY = "mlserver"

# Parameters that are not the model's: the class, and the outputs that it is to compute, divided by commas.
IMPLEMENTATION, OUTPUTS = "implementation", "outputs"

# What an artefact's folder may hold beside the model, as MLServer reads it.
SETTINGS_FILE = "model-settings.json"


def load(name: str, requirement: str, artefact: Path, parameters: Mapping[str, str], folder: Path) -> Function:
    """Make MLServer's model class for the artefact and load it.

    A class that is not MLServer's own stands beside the resource file in `folder`, in the artefact's folder, or is
    installed. Raises RuntimeUnavailable when an extra is missing, the artefact is, or the class refuses it.
    """
    if not artefact.exists():
        raise RuntimeUnavailable(name, f"the artefact {artefact} does not exist")
    written = _written(name, artefact)
    given = {key: value for key, value in parameters.items() if key not in (IMPLEMENTATION, OUTPUTS)}
    path = IMPLEMENTATIONS.get(requirement) or parameters.get(IMPLEMENTATION) or written.get(IMPLEMENTATION)
    if not path:
        raise RuntimeUnavailable(
            name, f'nothing names its class: add the parameter "{IMPLEMENTATION}", or a {SETTINGS_FILE} to {artefact}'
        )
    place = artefact if written.get(IMPLEMENTATION) == path else folder
    # What unpickles imports too. A class of somebody else's may take long to load, and imports for itself.
    with modules.importing if requirement in IMPLEMENTATIONS else nullcontext():
        cls = _class(name, requirement, path, place)
        model = _make(name, cls, artefact, written, given)
    outputs = [output.strip() for output in parameters.get(OUTPUTS, "").split(",") if output.strip()]
    caller = _Caller(name, model, outputs)
    return Function(
        caller,
        None,
        f"mlserver_{requirement}" if requirement != ANY else written.get("platform") or path,
        caller.close,
        takes=_specs(model.inputs),
        gives=_specs(model.outputs),
        # Where all of MLServer's own classes keep it, in none of their contracts.
        native=getattr(model, "_model", None),
    )


def _written(name: str, artefact: Path) -> dict[str, Any]:
    """What the settings file of an artefact's folder says; nothing when there is none."""
    file = artefact / SETTINGS_FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise RuntimeUnavailable(name, f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("parameters", {}), dict):
        raise RuntimeUnavailable(name, f"{file} is no object of settings")
    return found


def _class(name: str, requirement: str, path: str, folder: Path) -> Any:
    module_name, _, class_name = path.rpartition(".")
    if requirement in IMPLEMENTATIONS or path in IMPLEMENTATIONS.values():
        try:
            return getattr(importlib.import_module(module_name), class_name)
        except ImportError as error:
            raise RuntimeUnavailable(
                name, f'"{requirement}" needs {error.name}; pip install "millrace[runtimes]"'
            ) from error
    if not module_name:
        raise RuntimeUnavailable(name, f'"{path}" is no class; write PACKAGE.MODULE.CLASS')
    return modules.find(name, module_name, class_name, folder)


def _make(name: str, cls: Any, artefact: Path, written: Mapping[str, Any], given: Mapping[str, str]) -> Any:
    """The model, loaded."""
    try:
        settings = importlib.import_module("mlserver.settings")
    except ImportError as error:
        raise RuntimeUnavailable(name, f'it needs {error.name}; pip install "millrace[runtimes]"') from error
    own = dict(written.get("parameters") or {})
    place = _within(name, artefact, own.get("uri"))
    extra = {**(own.get("extra") or {}), **given}
    try:
        told = settings.ModelSettings.model_validate(
            {
                **written,
                "name": name,
                "implementation": f"{cls.__module__}.{cls.__qualname__}",
                "parameters": {**own, "uri": str(place), "extra": extra or None},
            }
        )
        model = cls(told)
        asyncio.run(model.load())
    except Exception as error:
        raise RuntimeUnavailable(name, f"loading {artefact} raised {type(error).__name__}: {error}") from error
    return model


def _within(name: str, artefact: Path, uri: str | None) -> Path:
    """Where the settings of an artefact's folder say that its model is."""
    place = (artefact / (uri or ".")).resolve()
    if not place.is_relative_to(artefact.resolve()):
        raise RuntimeUnavailable(name, f'{SETTINGS_FILE} names "{uri}", which is outside of {artefact}')
    return place


def _specs(described: Sequence[Any] | None) -> tuple[TensorSpec, ...]:
    """What MLServer's settings say of tensors."""
    return tuple(
        TensorSpec(tensor.name, str(getattr(tensor.datatype, "value", tensor.datatype)), tuple(tensor.shape))
        for tensor in described or ()
    )


class _Caller:
    """Calls a loaded MLServer model with arrays."""

    def __init__(self, name: str, model: Any, outputs: Sequence[str]) -> None:
        self._name, self._model, self._outputs = name, model, outputs
        self._types = importlib.import_module("mlserver.types")
        self._codec = importlib.import_module("mlserver.codecs").NumpyCodec
        self._refusal = importlib.import_module("mlserver.errors").InferenceError
        self._local = threading.local()
        self._runners: list[asyncio.Runner] = []

    def __call__(self, arrays: Arrays) -> Sequence[tuple[str, Array]]:
        outputs = [self._types.RequestOutput(name=name) for name in self._outputs] or None
        request = self._types.InferenceRequest(inputs=[self._input(*item) for item in arrays.items()], outputs=outputs)
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
            content_type = getattr(output.parameters, "content_type", None)
            elements[:] = [_unpacked(tensors.element_bytes(element), content_type) for element in output.data]
            return elements.reshape(output.shape)
        array: Array = self._codec.decode_output(output)
        return array


def _unpacked(element: bytes, content_type: str | None) -> bytes | str:
    """What MLServer's codec of a content type has packed into an element of BYTES; as it stands where it has not."""
    with suppress(ValueError):
        if content_type in TEXT:
            return element.decode()
        if content_type == BASE64:
            return base64.b64decode(element, validate=True)
    return element
