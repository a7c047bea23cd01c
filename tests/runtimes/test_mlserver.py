"""Small models, trained here, served by MLServer's own runtimes in this process."""

from __future__ import annotations

import json
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

    from engine.runtimes.function import Function

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
    return mlserver.load("iris", "sklearn", artefact, parameters, artefact.parent)


def call(artefact: Path, flowers: Any, **parameters: str) -> list[tuple[str, Any]]:
    return ask(load(artefact, **parameters), flowers)


def ask(loaded: Function, flowers: Any, name: str = "predict") -> list[tuple[str, Any]]:
    """What a loaded model answers; it is closed then."""
    try:
        return [(name, array.tolist()) for name, array in loaded.call({name: np.array(flowers)})]
    finally:
        assert loaded.close is not None
        loaded.close()


def test_a_model_predicts(artefact: Path) -> None:
    assert call(artefact, [[1.4, 0.2], [4.8, 1.5]]) == [("predict", [[0], [1]])]


def test_the_outputs_that_the_resource_asks_for_are_computed(artefact: Path) -> None:
    (first, labels), (second, chances) = call(artefact, [[1.4, 0.2]], outputs="predict, predict_proba")
    assert (first, second, labels) == ("predict", "predict_proba", [[0]])
    assert np.shape(chances) == (1, 2)


def test_labels_of_text_are_text(tmp_path: Path) -> None:
    artefact = train(tmp_path, ["setosa"] * 3 + ["versicolor"] * 3)
    [(_, labels)] = call(artefact, [[1.4, 0.2], [4.8, 1.5]])
    assert np.array(labels).reshape(-1).tolist() == ["setosa", "versicolor"]


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
    runtime = InProcessRuntime("iris", lambda: load(artefact), max_rows=8, threads=4)
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


def test_xgboost_models_of_every_format_predict_as_xgboost_does(tmp_path: Path) -> None:
    import xgboost

    trained = xgboost.XGBRegressor(n_estimators=3).fit(FLOWERS, [0, 0, 0, 1, 1, 1])
    for file in ("model.json", "model.ubj"):
        trained.save_model(tmp_path / file)
        loaded = mlserver.load("x", "xgboost", tmp_path / file, {}, tmp_path)
        [(name, found)] = ask(loaded, FLOWERS)
        assert name == "predict"
        np.testing.assert_array_equal(np.reshape(found, -1), trained.predict(FLOWERS))


def test_lightgbm_models_predict_as_lightgbm_does(tmp_path: Path) -> None:
    import lightgbm

    settings = {"verbose": -1, "min_data_in_leaf": 1, "min_data_in_bin": 1}
    trained = lightgbm.train(settings, lightgbm.Dataset(FLOWERS, [0, 0, 0, 1, 1, 1]), 3)
    trained.save_model(tmp_path / "model.bst")
    # The folder will do: the class knows what the file is called.
    [(name, found)] = ask(mlserver.load("l", "lightgbm", tmp_path, {}, tmp_path), FLOWERS)
    assert name == "predict"
    np.testing.assert_array_equal(np.reshape(found, -1), trained.predict(FLOWERS))


CUSTOM = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Scale(MLModel):
    async def load(self):
        self.by = float(self.settings.parameters.extra["by"])
        return True

    async def predict(self, request):
        array = NumpyCodec.decode_input(request.inputs[0]) * self.by
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", array)])
"""


def custom(artefact: Path, folder: Path, **parameters: str) -> Function:
    return mlserver.load("s", mlserver.ANY, artefact, parameters, folder)


PACKED = """
from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceResponse, ResponseOutput

class Packed(MLModel):
    async def predict(self, request):
        plain = ResponseOutput(name="plain", shape=[1], datatype="BYTES", data=[b"/w=="])
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("text", ["é"]),
                Base64Codec.encode_output("bytes", [b"\\xff"]),
                plain,
            ],
        )
"""


def test_text_and_bytes_are_taken_out_of_mlservers_codecs(tmp_path: Path) -> None:
    (tmp_path / "packing.py").write_text(PACKED)
    loaded = custom(tmp_path, tmp_path, implementation="packing.Packed")
    assert ask(loaded, [2.0]) == [("text", [["é"]]), ("bytes", [[b"\xff"]]), ("plain", [b"/w=="])]


def test_any_class_beside_the_resource_will_do(tmp_path: Path) -> None:
    (tmp_path / "scaling.py").write_text(CUSTOM)
    artefact = tmp_path / "weights"
    artefact.mkdir()
    loaded = custom(artefact, tmp_path, implementation="scaling.Scale", by="3")
    assert ask(loaded, [2.0], "x") == [("y", [[6.0]])]


def test_a_folder_of_mlserver_is_served_as_its_settings_say(tmp_path: Path) -> None:
    (tmp_path / "scaling_here.py").write_text(CUSTOM)
    tensor = {"datatype": "FP64", "shape": [-1]}
    settings = {
        "name": "theirs",
        "implementation": "scaling_here.Scale",
        "platform": "scaler",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "parameters": {"extra": {"by": 3}},
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    loaded = custom(tmp_path, tmp_path / "elsewhere")
    assert (loaded.platform, loaded.takes, loaded.gives) == (
        "scaler",
        (TensorSpec("x", "FP64", (-1,)),),
        (TensorSpec("y", "FP64", (-1,)),),
    )
    assert ask(loaded, [2.0], "x") == [("y", [[6.0]])]
    assert ask(custom(tmp_path, tmp_path, by="5"), [2.0], "x") == [("y", [[10.0]])], "the resource decides"


def test_a_folder_of_mlserver_names_its_file(tmp_path: Path) -> None:
    train(tmp_path, [0, 0, 0, 1, 1, 1]).rename(tmp_path / "iris.joblib")
    settings = {"implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./iris.joblib"}}
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    assert ask(custom(tmp_path, tmp_path), [[4.8, 1.5]]) == [("predict", [[1]])]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (None, 'nothing names its class: add the parameter "implementation"'),
        ("{", "model-settings.json is not JSON"),
        ("[]", "model-settings.json is no object of settings"),
        ('{"implementation": "nowhere.to.Be"}', "No module named 'nowhere'"),
        ('{"implementation": "Be"}', '"Be" is no class; write PACKAGE.MODULE.CLASS'),
        (
            '{"implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "../m"}}',
            'names "../m", which is outside of',
        ),
    ],
)
def test_settings_that_lead_to_no_model_are_told(tmp_path: Path, settings: str | None, reason: str) -> None:
    if settings is not None:
        (tmp_path / "model-settings.json").write_text(settings)
    with pytest.raises(RuntimeUnavailable) as caught:
        custom(tmp_path, tmp_path)
    assert reason in caught.value.reason
