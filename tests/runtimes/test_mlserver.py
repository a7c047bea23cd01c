"""A small model of scikit-learn, trained here, served by MLServer's own runtime in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from engine.errors import InvalidInput, RuntimeUnavailable
from engine.protocol.columns import Columns, TensorSpec
from engine.runtimes import mlserver
from engine.runtimes.inprocess import InProcessRuntime

if TYPE_CHECKING:
    from pathlib import Path

# Petal length and width of two species, far apart.
FLOWERS = np.array([[1.4, 0.2], [1.3, 0.2], [1.5, 0.3], [4.7, 1.4], [4.5, 1.5], [4.9, 1.5]])


def train(folder: Path, species: list[Any]) -> Path:
    artefact = folder / "model.joblib"
    joblib.dump(LogisticRegression().fit(FLOWERS, species), artefact)
    return artefact


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    return train(tmp_path, [0, 0, 0, 1, 1, 1])


def load(artefact: Path, **parameters: str) -> Any:
    return mlserver.load("iris", "sklearn", artefact, parameters)


def call(artefact: Path, flowers: Any) -> list[tuple[str, Any]]:
    loaded = load(artefact)
    try:
        return [(name, array.tolist()) for name, array in loaded.call({"predict": np.array(flowers)})]
    finally:
        loaded.close()


def test_a_model_predicts(artefact: Path) -> None:
    assert call(artefact, [[1.4, 0.2], [4.8, 1.5]]) == [("predict", [[0], [1]])]


def test_labels_of_text_are_text(tmp_path: Path) -> None:
    artefact = train(tmp_path, ["setosa"] * 3 + ["versicolor"] * 3)
    [(_, labels)] = call(artefact, [[1.4, 0.2], [4.8, 1.5]])
    assert np.array(labels).reshape(-1).tolist() == [b"setosa", b"versicolor"]


def test_tensors_that_the_model_was_not_made_for_are_refused(artefact: Path) -> None:
    with pytest.raises(InvalidInput, match="2 features"):
        call(artefact, [[1.0, 2.0, 3.0]])


def test_an_artefact_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"the artefact .*none\.joblib does not exist"):
        load(tmp_path / "none.joblib")


def test_an_artefact_that_does_not_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"no pickle")
    with pytest.raises(RuntimeUnavailable, match=r"loading .*model\.joblib raised"):
        load(tmp_path / "model.joblib")


def test_a_missing_extra_is_told_with_what_to_install(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mlserver.IMPLEMENTATIONS, "sklearn", "no_such_package.Model")
    with pytest.raises(
        RuntimeUnavailable, match=r'"sklearn" needs no_such_package; pip install "millrace\[runtimes\]"'
    ):
        load(artefact)


async def test_stacked_requests_get_their_own_rows_and_the_model_is_freed(artefact: Path) -> None:
    runtime = InProcessRuntime("iris", lambda: load(artefact), max_rows=8)
    await runtime.load()
    flowers = np.array([[[1.4, 0.2]], [[4.8, 1.5]], [[1.3, 0.1]]])
    asked = Columns([b"a", b"b", b"c"], (TensorSpec("predict", "FP64", (1, 2)),), (flowers,))
    [part] = [part async for part in runtime.infer(asked, [()] * 3, 5.0)]
    await runtime.unload()
    assert isinstance(part.outcome, Columns)
    assert (list(part.rows), part.outcome.ids) == ([0, 1, 2], [b"a", b"b", b"c"])
    assert np.asarray(part.outcome.cells[0]).reshape(-1).tolist() == [0, 1, 0]


async def test_each_of_several_threads_predicts(artefact: Path) -> None:
    runtime = InProcessRuntime("iris", lambda: load(artefact), max_rows=None, threads=3)
    await runtime.load()
    flowers = np.tile([[[1.4, 0.2]], [[4.8, 1.5]]], (10, 1, 1))
    asked = Columns([b""] * 20, (TensorSpec("predict", "FP64", (1, 2)),), (flowers,))
    found: dict[int, int] = {}
    async for part in runtime.infer(asked, [()] * 20, 5.0):
        assert isinstance(part.outcome, Columns)
        found.update(zip(part.rows, np.asarray(part.outcome.cells[0]).reshape(-1).tolist(), strict=True))
    await runtime.unload()
    assert [found[row] for row in range(20)] == [0, 1] * 10
