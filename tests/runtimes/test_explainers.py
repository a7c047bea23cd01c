"""Explainers around models of this process, and around what does not answer."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest
import shap
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from engine.errors import (
    InvalidInput,
    ModelFailed,
    NoAnswer,
    RequestError,
    RuntimeUnavailable,
    TimedOut,
    UnknownResource,
    Unreachable,
)
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.messages import ModelInferResponse
from engine.resources import Model, documents, parse
from engine.runtimes import choice, modules
from engine.runtimes.explainers import Asked
from engine.runtimes.function import Function
from engine.runtimes.inprocess import InProcessRuntime
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.protocol.record import HeaderPairs
    from engine.runtimes.contract import Part

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata:\n  name: why\nspec:\n"
BACKGROUND = "size,weight\n0,0\n2,4\n"
ROW = [[3.0, 1.0]]


def model(type_: str = "kernel_shap", reference: str = "modelRef: linear", uri: str = "", **parameters: str) -> Model:
    written = [f"  explainer: {{type: {type_}, {reference}}}"]
    written += [f"  storageUri: {uri}"] if uri else []
    listed = ", ".join(f"{{name: {name}, value: '{value}'}}" for name, value in parameters.items())
    written += [f"  parameters: [{listed}]"] if listed else []
    found, faults = documents(HEAD + "\n".join(written), "m.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Model)
    return resource


def refusals(explainer: Model) -> list[str]:
    """Headlines and hints, with lines counted from the first of the spec's fields."""
    problems = choice.check(explainer)
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems]


async def served(call: Callable[[Any], Any], **given: Any) -> InProcessRuntime:
    runtime = InProcessRuntime("linear", lambda: Function(call, None, "test", **given), max_rows=None, threads=2)
    await runtime.load()
    return runtime


def linear(arrays: Any) -> list[tuple[str, Any]]:
    [rows] = arrays.values()
    return [("y", rows @ np.array([[1.0, 0.0], [2.0, -1.0]]) + 5.0)]


def moods(arrays: Any) -> list[tuple[str, Any]]:
    [texts] = arrays.values()
    return [("mood", np.array([text.count(b"good") - text.count(b"bad") for text in texts], dtype=np.int32))]


async def make(folder: Path, explainer: Model, explained: Any, **settings: Any) -> Any:
    assert choice.check(explainer) == []
    runtime = choice.make(explainer, folder, Settings(**settings), trusted=False, explained=explained)
    await runtime.load()
    return runtime


def numbers(rows: Any, count: int = 1) -> Columns:
    array = np.tile(np.array(rows, dtype="<f4"), (count, 1, 1))
    return Columns([b""] * count, (TensorSpec("x", "FP32", array.shape[1:]),), (array,))


def texts(*written: str) -> Columns:
    spec = TensorSpec("text", "BYTES", (len(written),))
    return Columns([b""], (spec,), ([tensors.join_bytes(text.encode() for text in written)],))


async def parts(runtime: Any, asked: Columns, headers: HeaderPairs = (), timeout: float = 20.0) -> list[Part]:
    return [part async for part in runtime.infer(asked, [headers] * len(asked), timeout)]


async def outcome(runtime: Any, asked: Columns, timeout: float = 20.0) -> Any:
    """The documents of a request's explanation, or its error."""
    [part] = await parts(runtime, asked, timeout=timeout)
    if isinstance(part.outcome, RequestError):
        return part.outcome
    return [json.loads(each) for each in part.outcome.array(0, 0)]


class Scripted:
    """What is explained, as a test wants it to answer."""

    title = 'pipeline "scripted"'

    def __init__(self, answer: Callable[[Columns], Any]) -> None:
        self._answer = answer
        self.headers: list[HeaderPairs] = []
        self.timeouts: list[float] = []
        self.at_once = self.most_at_once = self.given_up = 0
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def ask(self, columns: Columns, headers: HeaderPairs, timeout: float) -> Columns:
        self.headers.append(headers)
        self.timeouts.append(timeout)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.set()
        try:
            found = self._answer(columns)
            answer: Columns = await found if asyncio.iscoroutine(found) else found
        except asyncio.CancelledError:
            self.given_up += 1
            self.left.set()
            raise
        finally:
            self.at_once -= 1
        return answer

    def native(self) -> Any:
        return None


def counted(asked: Columns) -> Columns:
    """The sum of each row."""
    rows = asked.array(0, 0).sum(axis=1)
    return Columns([b""], (TensorSpec("sum", "FP32", rows.shape),), (rows[np.newaxis],))


async def test_a_linear_model_is_explained_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(BACKGROUND)
    runtime = await make(tmp_path, model(uri="b.csv"), Asked("linear", {"linear": await served(linear)}.get))
    [document] = await outcome(runtime, numbers(ROW))
    data = document["data"]
    # The background's mean is 1 and 2.
    assert np.allclose(data["shap_values"], [[[1.0 * 2.0, 2.0 * -1.0]], [[0.0, -1.0 * -1.0]]])
    assert np.allclose(data["expected_value"], [10.0, 3.0])
    assert np.allclose(data["raw"]["raw_prediction"], [[10.0, 4.0]])
    assert (data["raw"]["instances"], data["feature_names"]) == (ROW, ["size", "weight"])


async def test_an_explanation_is_text_laid_out_as_alibis_are(tmp_path: Path) -> None:
    runtime = await make(tmp_path, model(nsamples="9"), Asked("linear", {"linear": await served(linear)}.get))
    [part] = await parts(runtime, numbers(ROW))
    assert isinstance(part.outcome, Columns)
    [spec] = part.outcome.specs
    assert (spec.name, spec.datatype, spec.shape) == ("explanation", "BYTES", (1,))
    read = ModelInferResponse.InferOutputTensor.FromString(spec.parameters)
    assert read.parameters["content_type"].string_param == "str"
    assert part.headers == ((("x-seldon-alibi-type", b"explanation"), ("x-seldon-alibi-method", b"kernel_shap")),)
    document = json.loads(part.outcome.array(0, 0)[0])
    assert document["meta"] == {
        "name": "KernelShap",
        "type": ["blackbox"],
        "explanations": ["local"],
        "params": {"nsamples": 9, "output": None, "link": "identity", "seed": 0},
        "version": shap.__version__,
    }


async def test_without_background_features_are_compared_with_zeros(tmp_path: Path) -> None:
    runtime = await make(tmp_path, model(), Asked("linear", {"linear": await served(linear)}.get))
    [document] = await outcome(runtime, numbers(ROW))
    assert np.allclose(document["data"]["shap_values"], [[[3.0, 2.0]], [[0.0, -1.0]]])
    assert document["data"]["feature_names"] == ["x[0]", "x[1]"]


async def test_each_row_and_each_request_has_an_explanation_of_its_own(tmp_path: Path) -> None:
    runtime = await make(tmp_path, model(), Asked("linear", {"linear": await served(linear)}.get))
    [one, two] = await outcome(runtime, numbers([[1.0, 0.0], [0.0, 1.0]]))
    assert (one["data"]["raw"]["instances"], two["data"]["raw"]["instances"]) == ([[1.0, 0.0]], [[0.0, 1.0]])
    assert sorted(part.rows[0] for part in await parts(runtime, numbers(ROW, 5))) == list(range(5))


async def test_the_same_is_explained_the_same(tmp_path: Path) -> None:
    scripted = Scripted(counted)
    runtime = await make(tmp_path, model(nsamples="60"), scripted)
    asked = numbers(np.linspace(1, 2, 24)[np.newaxis])
    assert await outcome(runtime, asked) == await outcome(runtime, asked)


async def test_the_words_of_a_text_are_explained(tmp_path: Path) -> None:
    runtime = await make(tmp_path, model(), Asked("linear", {"linear": await served(moods)}.get))
    first, second = await outcome(runtime, texts("good or bad", "not so bad"))
    assert first["data"]["feature_names"] == ["good ", "or ", "bad"]
    assert np.allclose(first["data"]["shap_values"], [[[1.0, 0.0, -1.0]]])
    assert (first["data"]["raw"]["instances"], second["data"]["raw"]["instances"]) == (["good or bad"], ["not so bad"])


async def test_many_perturbed_rows_go_in_few_calls_with_the_callers_headers_and_what_is_left_of_the_time(
    tmp_path: Path,
) -> None:
    scripted = Scripted(counted)
    runtime = await make(tmp_path, model(), scripted)
    headers = (
        ("x-mine", b"1"),
        ("x-mine", b"2"),
        ("x-request-id", b"r"),
        ("pipeline", b"p"),
        ("x-pipeline-version", b"1"),
    )
    [part] = await parts(runtime, numbers([[1.0] * 12]), headers, timeout=20.0)
    assert isinstance(part.outcome, Columns)
    assert scripted.headers == [headers[:3]] * 2, (
        "the answer of the row and the background, and one of all combinations"
    )
    assert all(0.0 < timeout <= 20.0 for timeout in scripted.timeouts)


async def test_no_call_has_more_rows_than_are_allowed(tmp_path: Path) -> None:
    sizes: list[int] = []

    def answer(asked: Columns) -> Columns:
        sizes.append(asked.specs[0].shape[0])
        return counted(asked)

    runtime = await make(tmp_path, model(max_batch_size="10"), Scripted(answer))
    [document] = await outcome(runtime, numbers([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert np.allclose(document["data"]["shap_values"], [[[1.0, 2.0, 3.0, 4.0, 5.0]]])
    assert sizes == [2, 10, 10, 10]


async def test_the_named_output_is_explained(tmp_path: Path) -> None:
    def both(arrays: Any) -> list[tuple[str, Any]]:
        return [("label", np.full(len(arrays["x"]), b"?", dtype=object)), *linear(arrays)]

    asked = Asked("linear", {"linear": await served(both)}.get)
    [document] = await outcome(await make(tmp_path, model(output="y"), asked), numbers(ROW))
    assert np.allclose(document["data"]["shap_values"], [[[3.0, 2.0]], [[0.0, -1.0]]])
    error = await outcome(await make(tmp_path, model(), asked), numbers(ROW))
    assert isinstance(error, ModelFailed)
    assert str(error) == (
        'model "linear": it gave the outputs label, y; say by the parameter "output" which one is explained'
    )


async def test_more_explanations_than_threads_wait_for_each_other(tmp_path: Path) -> None:
    async def answer(asked: Columns) -> Columns:
        await asyncio.sleep(0.01)
        return counted(asked)

    scripted = Scripted(answer)
    runtime = await make(tmp_path, model(threads="2"), scripted)
    assert len(await parts(runtime, numbers(ROW, 6))) == 6
    assert scripted.most_at_once == 2


async def never(_: Columns) -> Columns:
    await asyncio.Event().wait()
    raise AssertionError("nothing sets it")


async def test_what_takes_too_long_ends_with_the_time_and_gives_its_thread_back(tmp_path: Path) -> None:
    hangs = True

    async def answer(asked: Columns) -> Columns:
        return await never(asked) if hangs else counted(asked)

    scripted = Scripted(answer)
    runtime = await make(tmp_path, model(threads="1"), scripted)
    error = await outcome(runtime, numbers(ROW), timeout=0.05)
    assert isinstance(error, TimedOut)
    assert str(error) == 'explainer "why" was not done in 0.05 s'
    hangs = False
    [document] = await outcome(runtime, numbers(ROW))
    assert np.allclose(document["data"]["shap_values"], [[[3.0, 1.0]]])
    assert scripted.given_up == 1


async def test_a_caller_who_leaves_ends_the_explanations(tmp_path: Path) -> None:
    scripted = Scripted(never)
    runtime = await make(tmp_path, model(threads="1"), scripted)
    async with aclosing(runtime.infer(numbers(ROW, 3), [()] * 3, 20.0)) as explaining:
        first = asyncio.ensure_future(anext(explaining))
        await scripted.asked.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    await scripted.left.wait()
    assert (scripted.given_up, len(scripted.headers)) == (1, 1), "those that waited for the thread never began"


async def test_unloading_ends_what_is_being_explained_with_an_error(tmp_path: Path) -> None:
    scripted = Scripted(never)
    runtime = await make(tmp_path, model(), scripted)
    explaining = asyncio.ensure_future(outcome(runtime, numbers(ROW)))
    await scripted.asked.wait()
    await runtime.unload()
    assert str(await explaining) == 'explainer "why" was unloaded before it was done'
    assert not await runtime.ready()
    error = await outcome(runtime, numbers(ROW))
    assert (type(error), str(error)) == (Unreachable, 'explainer "why" is not loaded')


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (InvalidInput("four features"), InvalidInput, 'pipeline "scripted": four features'),
        (TimedOut("late", step="slow"), TimedOut, 'pipeline "scripted", step "slow": late'),
        (NoAnswer("not taken"), ModelFailed, 'pipeline "scripted": not taken'),
        (UnknownResource("gone"), ModelFailed, 'pipeline "scripted": gone'),
        (ValueError("broken"), ModelFailed, 'explainer "why": ValueError: broken'),
    ],
)
async def test_an_error_of_what_is_explained_is_told_as_such(
    tmp_path: Path, raised: Exception, kind: type[RequestError], text: str
) -> None:
    def answer(_: Columns) -> Columns:
        raise raised

    error = await outcome(await make(tmp_path, model(), Scripted(answer)), numbers(ROW))
    assert (type(error), str(error), error.step) == (kind, text, None)


async def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    error = await outcome(await make(tmp_path, model(), Asked("linear", {}.get)), numbers(ROW))
    assert (type(error), str(error)) == (Unreachable, 'model "linear": it is not loaded')


async def test_rows_of_another_width_than_the_background_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(BACKGROUND)
    runtime = await make(tmp_path, model(uri="b.csv"), Scripted(counted))
    error = await outcome(runtime, numbers([[1.0, 2.0, 3.0]]))
    assert (type(error), str(error)) == (
        InvalidInput,
        'a row has 3 features; the background of explainer "why" has 2',
    )


def forest(folder: Path, kind: Any) -> Any:
    """A trained artefact, and the model that serves it."""
    rows = np.random.default_rng(1).normal(size=(40, 2))
    trained = kind.fit(rows, (rows[:, 0] > 0).astype(int))
    joblib.dump(trained, folder / "model.joblib")
    text = HEAD.replace("why", "linear") + "  storageUri: model.joblib\n  requirements: [sklearn]\n"
    resource, _ = parse(documents(text, "m.yaml")[0][0])
    assert isinstance(resource, Model)
    return trained, choice.make(resource, folder, Settings(), trusted=True)


async def test_the_trees_of_an_artefact_are_explained_as_shap_explains_them(tmp_path: Path) -> None:
    trained, runtime = forest(tmp_path, RandomForestClassifier(5, random_state=0))
    await runtime.load()
    explainer = await make(tmp_path, model("tree_shap"), Asked("linear", {"linear": runtime}.get))
    [part] = await parts(explainer, numbers(ROW))
    assert isinstance(part.outcome, Columns)
    assert part.headers is not None
    assert ("x-seldon-alibi-method", b"tree_shap") in part.headers[0]
    document = json.loads(part.outcome.array(0, 0)[0])
    expected = np.moveaxis(shap.TreeExplainer(trained).shap_values(np.array(ROW)), -1, 0)
    assert np.allclose(document["data"]["shap_values"], expected)
    assert np.allclose(document["data"]["raw"]["raw_prediction"], trained.predict_proba(ROW))
    assert (document["meta"]["name"], document["meta"]["type"]) == ("TreeShap", ["whitebox"])
    assert isinstance(await outcome(explainer, numbers([[1.0, 2.0, 3.0]])), InvalidInput)
    assert isinstance(await outcome(explainer, texts("words")), InvalidInput)
    await runtime.unload()


async def test_trees_that_are_elsewhere_or_none_are_refused_with_what_to_use(tmp_path: Path) -> None:
    python = Asked("linear", {"linear": await served(linear)}.get)
    with pytest.raises(RuntimeUnavailable, match='model "linear" is none; use type kernel_shap'):
        await make(tmp_path, model("tree_shap"), python)
    _, runtime = forest(tmp_path, LogisticRegression())
    await runtime.load()
    with pytest.raises(RuntimeUnavailable, match=r'tree_shap cannot read model "linear".*use type kernel_shap'):
        await make(tmp_path, model("tree_shap"), Asked("linear", {"linear": runtime}.get))
    await runtime.unload()


async def test_without_shap_it_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(RuntimeUnavailable, match=r'explainers need shap; pip install "millrace\[explain\]"'):
        await make(tmp_path, model(), Scripted(counted))


async def test_a_shap_that_cannot_be_imported_is_told_and_the_explainer_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await make(tmp_path, model(), Scripted(counted))
    monkeypatch.setitem(sys.modules, "shap", None)
    error = await outcome(runtime, numbers(ROW))
    assert isinstance(error, ModelFailed)
    assert "explainers need shap" in str(error)
    assert not await runtime.ready()


async def test_shap_waits_until_no_model_imports_what_both_need(tmp_path: Path) -> None:
    runtime = await make(tmp_path, model(), Scripted(counted))
    with modules.importing:
        explaining = asyncio.ensure_future(outcome(runtime, numbers(ROW)))
        done, _ = await asyncio.wait([explaining], timeout=0.1)
        assert not done
    assert len(await explaining) == 1


async def test_background_that_is_missing_wrong_or_elsewhere_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "b.csv").write_text("a,b\nx,y\n")
    (tmp_path / "b.csv").write_text(BACKGROUND)
    for uri, text in (("no.csv", "does not exist"), ("b.csv", "cannot be read"), ("../b.csv", "leads out of")):
        with pytest.raises(RuntimeUnavailable, match=text):
            await make(home, model(uri=uri), Scripted(counted))


async def test_metadata_tells_of_the_explanation(tmp_path: Path) -> None:
    metadata = await (await make(tmp_path, model(), Scripted(counted))).metadata()
    [output] = metadata.outputs
    assert (metadata.name, metadata.platform) == ("why", "shap_kernel_shap")
    assert (output.name, output.datatype, output.shape) == ("explanation", "BYTES", [-1])


@pytest.mark.parametrize("type_", ["anchor_tabular", "anchor_text", "anchor_image", "integrated_gradients", "lime"])
def test_a_type_that_is_not_supported_is_told_with_those_that_are(type_: str) -> None:
    assert refusals(model(type_)) == [
        f'1:21: explainers of type "{type_}" are not supported (supported are kernel_shap and tree_shap, by shap)'
    ]


def test_a_type_that_is_near_a_supported_one_is_told() -> None:
    [refusal] = refusals(model("kernal_shap"))
    assert refusal.endswith('(did you mean "kernel_shap"?)')


def test_a_pipeline_has_no_trees() -> None:
    [refusal] = refusals(model("tree_shap", "pipelineRef: p"))
    assert refusal.startswith("1:45: tree_shap reads the trees of one model")


@pytest.mark.parametrize("name", ["nsamples", "max_batch_size", "threads"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "²", "9" * 5000])
def test_a_count_that_is_none_is_refused(name: str, value: str) -> None:
    [refusal] = refusals(model(**{name: value}))
    assert refusal.endswith("it must be a whole number above 0")


def test_a_parameter_that_does_nothing_is_refused() -> None:
    assert [refusal.split(": ", 1)[1] for refusal in refusals(model(nsample="9"))] == [
        'an explainer of type kernel_shap has no parameter "nsample" (did you mean "nsamples"?)'
    ]
    [refusal] = refusals(model("tree_shap", nsamples="9"))
    assert refusal.endswith("(there are threads)")


def test_what_is_no_background_data_is_refused() -> None:
    for uri in ("gs://models/income/explainer", "zip://b.csv::x.zip", "python:models:explain"):
        assert [refusal.split(": ", 1)[1] for refusal in refusals(model(uri=uri))] == [
            (
                f'"{uri}" is no background data, which an explainer\'s storageUri names '
                "(name a .csv or .npy file, or leave it out)"
            )
        ]
