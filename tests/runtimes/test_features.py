from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.errors import InvalidInput, ModelFailed
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec
from engine.runtimes import features
from engine.runtimes.features import Background, Table, Texts

if TYPE_CHECKING:
    from pathlib import Path


def columns(**given: tuple[str, Any]) -> Columns:
    """One request of tensors given as (datatype, array)."""
    specs, cells = [], []
    for name, (datatype, value) in given.items():
        array = np.asarray(value)
        specs.append(TensorSpec(name, datatype, array.shape))
        if datatype == "BYTES":
            cells.append([tensors.raw_of(array, tensors.DATATYPES[datatype])])
        else:
            cells.append(array.astype(tensors.DATATYPES[datatype].dtype)[np.newaxis])
    return Columns([b""], tuple(specs), tuple(cells))


def test_tensors_stand_side_by_side_as_rows_of_features() -> None:
    table = Table.of(columns(x=("FP32", [[1, 2], [3, 4]]), age=("INT64", [50, 60])))
    assert table.rows.tolist() == [[1, 2, 50], [3, 4, 60]]
    assert table.names == ("x[0]", "x[1]", "age")


def test_rows_become_a_request_with_the_same_tensors() -> None:
    asked = Table.of(columns(x=("FP32", [[1, 2]]), age=("INT8", [50]), ok=("BOOL", [[[True]]]))).request(
        np.array([[1.5, 2.5, 50.6, 1.0], [3.0, 4.0, 300.0, 0.2], [5.0, 6.0, -1.0, 0.5]])
    )
    assert asked.specs == (
        TensorSpec("x", "FP32", (3, 2)),
        TensorSpec("age", "INT8", (3,)),
        TensorSpec("ok", "BOOL", (3, 1, 1)),
    )
    assert asked.array(0, 0).tolist() == [[1.5, 2.5], [3, 4], [5, 6]]
    assert asked.array(1, 0).tolist() == [51, 127, -1], "the nearest that the datatype holds"
    assert asked.array(2, 0).reshape(-1).tolist() == [True, False, True]


@pytest.mark.parametrize("datatype", ["INT8", "UINT64", "FP16", "BF16", "FP64", "BOOL"])
def test_every_datatype_comes_back_as_it_was(datatype: str) -> None:
    value = tensors.bf16_of_float32(np.array([[0.0, 1.0]])) if datatype == "BF16" else [[0, 1]]
    given = columns(x=(datatype, value))
    table = Table.of(given)
    assert table.rows.tolist() == [[0, 1]]
    assert table.request(table.rows).array(0, 0).tolist() == given.array(0, 0).tolist()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (columns(x=("FP32", [[1]]), y=("FP32", [[1], [2]])), r"not x \[1, 1\], y \[2, 1\]"),
        (columns(x=("FP32", 1.0)), r"not x \[\]"),
        (columns(x=("FP32", np.zeros((0, 3)))), r"not x \[0, 3\]"),
        (columns(x=("FP32", np.zeros((3, 0)))), "no features"),
        (columns(), "not no tensors"),
        (columns(x=("FP32", [[1]]), t=("BYTES", ["a"])), "or one tensor of text and no other"),
    ],
)
def test_what_is_no_table_is_refused(given: Columns, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        Table.of(given)


def test_text_comes_as_a_tensor_of_one_text_for_each_row() -> None:
    for shape in ((2,), (2, 1)):
        texts = Texts.of(columns(text=("BYTES", np.array(["one", "zwölf"]).reshape(shape))))
        assert texts is not None
        assert texts.written == ("one", "zwölf")
        asked = texts.request(["a", "", "ü"])
        assert asked.specs == (TensorSpec("text", "BYTES", (3, *shape[1:])),)
        assert asked.array(0, 0).reshape(-1).tolist() == [b"a", b"", "ü".encode()]


def test_numbers_are_no_text() -> None:
    assert Texts.of(columns(x=("FP32", [[1]]))) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [([["a", "b"]], r"shape \[1, 2\]"), ("a", r"shape \[\]"), ([b"\xff"], "is not text")],
)
def test_text_that_cannot_be_explained_is_refused(value: Any, text: str) -> None:
    array = np.asarray(value, dtype=object)
    with pytest.raises(InvalidInput, match=text):
        Texts.of(columns(t=("BYTES", array)))


def test_an_answer_of_one_tensor_is_taken() -> None:
    given = columns(y=("FP32", [[1, 2], [3, 4]]))
    assert features.answers(given, None, 2).tolist() == [[1, 2], [3, 4]]


def test_of_several_tensors_the_one_is_taken_that_is_named() -> None:
    given = columns(label=("BYTES", ["a", "b"]), y=("INT32", [1, 2]))
    assert features.answers(given, "y", 2).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("given", "output", "text"),
    [
        (columns(a=("FP32", [1]), b=("FP32", [1])), None, 'outputs a, b; say by the parameter "output" which one'),
        (columns(a=("FP32", [1])), "b", 'gave the outputs a and no "b"'),
        (columns(), None, "gave no outputs"),
        (columns(a=("BYTES", ["x"])), None, 'output "a" is text; only numbers can be explained'),
        (columns(a=("FP32", [1, 2])), None, r'output "a" has shape \[2\]; of 1 rows in one call each must get its own'),
    ],
)
def test_an_answer_that_cannot_be_explained_is_told(given: Columns, output: str | None, text: str) -> None:
    with pytest.raises(ModelFailed, match=text):
        features.answers(given, output, 1)


def test_background_is_read_with_and_without_names(tmp_path: Path) -> None:
    named, bare, binary = tmp_path / "named.csv", tmp_path / "bare.csv", tmp_path / "b.npy"
    named.write_text("age, income\n1,2\n3,4\n")
    bare.write_text("1,2\n")
    np.save(binary, np.array([[1, 2]], dtype=np.int8))
    assert (Background.read(named).names, Background.read(named).rows.tolist()) == (
        ("age", "income"),
        [[1, 2], [3, 4]],
    )
    assert (Background.read(bare).names, Background.read(bare).rows.tolist()) == ((), [[1, 2]])
    assert Background.read(binary).rows.dtype == np.float64


@pytest.mark.parametrize("written", ["a,b\n", "", "1,x\n2,y\n", "a\n1,2\n"])
def test_background_that_is_none_is_told(tmp_path: Path, written: str) -> None:
    path = tmp_path / "b.csv"
    path.write_text(written)
    with pytest.raises(ValueError, match=r"."):
        Background.read(path)


def test_background_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "b.npy"
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        Background.read(path)
