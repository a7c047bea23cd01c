"""Small models made with onnx, computed by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from engine.errors import InvalidInput, RuntimeUnavailable
from engine.protocol.columns import Columns, TensorSpec
from engine.runtimes import onnx
from engine.runtimes.inprocess import InProcessRuntime

if TYPE_CHECKING:
    from pathlib import Path

    from engine.runtimes.function import Function

KINDS = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}


def write(file: Path, operator: str, kind: int, inputs: int, shape: list[Any]) -> Path:
    """A model of one operator over inputs a, b, … of one shape."""
    names = [chr(ord("a") + index) for index in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"])],
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


@pytest.fixture
def add(tmp_path: Path) -> Path:
    """A model that adds FP32 [any, 2] tensors a and b."""
    return write(tmp_path / "model.onnx", "Add", TensorProto.FLOAT, 2, ["batch", 2])


def floats(*rows: list[float]) -> Any:
    return np.array(rows, dtype=np.float32)


def shown(function: Function, **arrays: Any) -> list[tuple[str, Any]]:
    return [(name, array.tolist()) for name, array in function.call(arrays)]


@pytest.mark.parametrize("folder", [False, True])
def test_a_model_of_a_file_or_a_folder_computes(add: Path, *, folder: bool) -> None:
    function = onnx.load("m", add.parent if folder else add, {})
    assert shown(function, a=floats([1, 2]), b=floats([3, 4])) == [("y", [[4, 6]])]


def test_what_the_model_takes_and_gives_is_known(add: Path) -> None:
    function = onnx.load("m", add, {})
    assert function.inputs == ("a", "b")
    assert function.takes == (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (-1, 2)))
    assert function.gives == (TensorSpec("y", "FP32", (-1, 2)),)


async def test_metadata_tells_it(add: Path) -> None:
    runtime = InProcessRuntime("m", lambda: onnx.load("m", add, {}), max_rows=None, threads=1)
    await runtime.load()
    said = await runtime.metadata()
    await runtime.unload()
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in said.inputs] == [
        ("a", "FP32", [-1, 2]),
        ("b", "FP32", [-1, 2]),
    ]
    assert [tensor.name for tensor in said.outputs] == ["y"]


@pytest.mark.parametrize("datatype", KINDS)
def test_tensors_of_every_datatype_go_in_and_out(tmp_path: Path, datatype: str) -> None:
    function = onnx.load("m", write(tmp_path / "m.onnx", "Identity", KINDS[datatype], 1, ["n"]), {})
    [spec] = function.takes
    assert spec.datatype == datatype
    given = np.array([0, 1, 1], dtype=helper.tensor_dtype_to_np_dtype(KINDS[datatype]))
    [(_, found)] = function.call({"a": given})
    assert (found.dtype, found.tolist()) == (given.dtype, given.tolist())


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    function = onnx.load("m", write(tmp_path / "m.onnx", "Identity", TensorProto.STRING, 1, ["n"]), {})
    assert shown(function, a=np.array(["grün".encode(), b""], dtype=object)) == [("y", ["grün", ""])]
    with pytest.raises(InvalidInput, match='tensor "a" holds bytes that are no UTF-8 text'):
        function.call({"a": np.array([b"\xff"], dtype=object)})


def test_another_datatype_is_refused_by_name(add: Path) -> None:
    with pytest.raises(InvalidInput, match='tensor "b" is FP64; the model takes FP32'):
        onnx.load("m", add, {}).call({"a": floats([1, 2]), "b": np.array([[1.0, 2.0]])})


def test_shapes_that_the_model_does_not_take_are_refused(add: Path) -> None:
    with pytest.raises(InvalidInput, match="Got invalid dimensions for input"):
        onnx.load("m", add, {}).call({"a": floats([1, 2, 3]), "b": floats([1, 2, 3])})


async def test_stacked_requests_get_the_bits_of_single_ones(add: Path) -> None:
    asked = Columns(
        [b"%d" % row for row in range(5)],
        (TensorSpec("a", "FP32", (1, 2)), TensorSpec("b", "FP32", (1, 2))),
        (
            np.random.default_rng(1).random((5, 1, 2), np.float32),
            np.random.default_rng(2).random((5, 1, 2), np.float32),
        ),
    )
    answers = []
    for max_rows in (None, 3):
        runtime = InProcessRuntime("m", lambda: onnx.load("m", add, {}), max_rows=max_rows, threads=2)
        await runtime.load()
        found: dict[int, bytes] = {}
        async for part in runtime.infer(asked, [()] * 5, 30.0):
            assert isinstance(part.outcome, Columns)
            found.update({row: part.outcome.array(0, place).tobytes() for place, row in enumerate(part.rows)})
        await runtime.unload()
        answers.append(found)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 5


def test_a_number_of_threads_can_be_set(add: Path) -> None:
    assert onnx.load("m", add, {"intra_op_num_threads": "1"}).inputs


@pytest.mark.parametrize(("name", "value"), [("speed", "1"), ("intra_op_num_threads", "many")])
def test_a_parameter_that_says_nothing_to_onnxruntime_is_told(add: Path, name: str, value: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=f'parameter "{name}" is "{value}"; known are intra_op_num_threads'):
        onnx.load("m", add, {name: value})


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeUnavailable, match=r"loading .*m\.onnx raised"):
        onnx.load("m", tmp_path / "m.onnx", {})
    with pytest.raises(RuntimeUnavailable, match=r"the artefact .*model\.onnx does not exist"):
        onnx.load("m", tmp_path, {})


def test_a_missing_extra_is_told_with_what_to_install(add: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match=r'"onnx" needs onnxruntime; pip install "millrace\[onnx\]"'):
        onnx.load("m", add, {})
