"""ONNX models by onnxruntime, in this process."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InvalidInput, RuntimeUnavailable
from engine.protocol import tensors
from engine.protocol.columns import TensorSpec
from engine.runtimes import modules
from engine.runtimes.function import Function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from engine.runtimes.function import Array, Arrays

REQUIREMENT = "onnx"

# How the file is called in a folder.
FILE = "model.onnx"

# What can be set of a session, as onnxruntime calls it: whole numbers of threads; 0 is as many as there are cores.
SESSION_OPTIONS = ("intra_op_num_threads", "inter_op_num_threads")

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(double)": "FP64",
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(string)": "BYTES",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def load(name: str, artefact: Path, parameters: Mapping[str, str]) -> Function:
    """The session of a model file, or of the `model.onnx` of a folder.

    Raises RuntimeUnavailable when the extra is missing, the artefact is, or onnxruntime refuses it.
    """
    file = artefact / FILE if artefact.is_dir() else artefact
    if not file.is_file():
        raise RuntimeUnavailable(name, f"the artefact {file} does not exist")
    try:
        with modules.importing:
            ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeUnavailable(name, f'"{REQUIREMENT}" needs {error.name}; pip install "millrace[onnx]"') from error
    options = ort.SessionOptions()
    for key, value in parameters.items():
        if key not in SESSION_OPTIONS or not value.isdecimal():
            known = ", ".join(SESSION_OPTIONS)
            raise RuntimeUnavailable(name, f'parameter "{key}" is "{value}"; known are {known}, each a whole number')
        setattr(options, key, int(value))
    try:
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RuntimeUnavailable(name, f"loading {file} raised {type(error).__name__}: {error}") from error
    takes, gives = _specs(name, session.get_inputs()), _specs(name, session.get_outputs())
    names = tuple(spec.name for spec in takes)
    refusal = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state").InvalidArgument
    return Function(_calling(session, takes, gives, refusal), names, "onnxruntime_onnx", takes=takes, gives=gives)


def _specs(name: str, described: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """What a session says of its tensors; dimensions without a number are any."""
    found = []
    for each in described:
        if each.type not in _DATATYPES:
            raise RuntimeUnavailable(name, f'its tensor "{each.name}" is a {each.type}, which V2 has no datatype for')
        shape = tuple(size if isinstance(size, int) else -1 for size in each.shape)
        found.append(TensorSpec(each.name, _DATATYPES[each.type], shape))
    return tuple(found)


def _calling(
    session: Any, takes: Sequence[TensorSpec], gives: Sequence[TensorSpec], refusal: type[Exception]
) -> Callable[[Arrays], list[tuple[str, Array]]]:
    names = [spec.name for spec in gives]

    def call(arrays: Arrays) -> list[tuple[str, Array]]:
        given = {spec.name: _input(spec, arrays[spec.name]) for spec in takes}
        try:
            return list(zip(names, session.run(names, given), strict=True))
        except refusal as error:
            # Shapes that do not fit, as onnxruntime found while it computed.
            raise InvalidInput(str(error)) from error

    return call


def _input(spec: TensorSpec, array: Array) -> Array:
    datatype = tensors.datatype_of(array)
    if datatype != spec.datatype:
        raise InvalidInput(f'tensor "{spec.name}" is {datatype}; the model takes {spec.datatype}')
    if datatype != "BYTES":
        return array
    try:
        texts = [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f'tensor "{spec.name}" holds bytes that are no UTF-8 text: {error}') from None
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found.reshape(array.shape)
