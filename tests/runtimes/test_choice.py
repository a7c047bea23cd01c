from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from file_server import FileServer, Served
from test_archives import zipped

from engine.errors import RuntimeUnavailable
from engine.protocol.columns import Columns, TensorSpec
from engine.resources import Model, documents, parse
from engine.runtimes import choice
from engine.runtimes.inprocess import InProcessRuntime
from engine.runtimes.remote import RemoteRuntime
from engine.runtimes.remote_grpc import GrpcTransport
from engine.runtimes.remote_rest import RestTransport
from engine.runtimes.stacked import StackedRuntime
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata:\n  name: iris\nspec:\n"


def model(uri: str, rest: str = "") -> Model:
    found, faults = documents(f"{HEAD}  storageUri: {uri}\n{rest}", "m.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Model)
    return resource


def refusals(uri: str, rest: str = "") -> list[str]:
    """Headlines and hints, with lines counted from the first of the spec's fields."""
    problems = choice.check(model(uri, rest))
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems]


def parameter(name: str, value: str) -> str:
    return f"  parameters: [{{name: {name}, value: '{value}'}}]\n"


@pytest.mark.parametrize("uri", ["grpc://h:80", "grpc://h:80/name", "grpcs://[::1]:443", "python:pkg.module:attribute"])
def test_what_can_be_served_has_no_problem(uri: str) -> None:
    assert refusals(uri) == []


@pytest.mark.parametrize("uri", ["model", "./a/model.joblib", "file:///a/model"])
def test_an_artefact_with_a_requirement_has_no_problem(uri: str) -> None:
    assert refusals(uri, "  requirements: [other, sklearn]\n") == []


@pytest.mark.parametrize(
    "uri", ["grpc://h", "grpc://h:x", "grpc://:80", "'grpc://[::1'", "grpc://h:0", "grpcs:h", "http://h/m", "https://h"]
)
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    bare = uri.strip("'")
    [refusal] = refusals(uri)
    hint = f"write {bare.partition(':')[0]}://HOST:PORT/NAME"
    assert refusal.split(": ", 1)[1] == f'"{bare}" is no server address ({hint})'


@pytest.mark.parametrize("uri", ["python:module", "python:a:b:c", "python::f", "python:a..b:f", "python:a:b.c"])
def test_a_callable_that_is_none_is_refused(uri: str) -> None:
    assert refusals(uri) == [f'1:15: "{uri}" names no callable (write python:PACKAGE.MODULE:ATTRIBUTE)']


@pytest.mark.parametrize("uri", ["https://h/model.zip", "http://h/", "s3://bucket/iris", "memory://iris"])
def test_an_artefact_from_elsewhere_with_a_requirement_has_no_problem(uri: str) -> None:
    assert refusals(uri, "  requirements: [sklearn]\n") == []


@pytest.mark.parametrize(
    ("uri", "close"), [("s33://a/b", "s3"), ("htps://a/b", "https"), ("filee:///a", "file"), ("gcss://a", "gcs")]
)
def test_an_address_that_nothing_here_opens_is_refused_with_the_nearest_that_is_known(uri: str, close: str) -> None:
    assert refusals(uri, "  requirements: [sklearn]\n") == [
        f'1:15: "{uri}": nothing here opens such addresses (did you mean "{close}://"?)'
    ]


@pytest.mark.parametrize("uri", ["quux://a/b", "zip://model::s3://a/b", "s3:a", "https:a", "local:///a"])
def test_an_address_that_nothing_here_opens_is_refused_with_all_that_is_known(uri: str) -> None:
    [refusal] = refusals(uri, "  requirements: [sklearn]\n")
    assert refusal.startswith(f'1:15: "{uri}": nothing here opens such addresses (supported are paths, python: and ')
    assert {"file://", "grpc://", "https://", "s3://"} <= set(refusal.strip(")").replace(",", "").split())


def test_an_artefact_without_requirements_is_refused() -> None:
    assert refusals("model") == ['1:3: model "iris" says not what loads its artefact (requirements: [sklearn])']


def test_a_requirement_that_is_near_a_known_one_is_told() -> None:
    assert refusals("model", "  requirements: [sklern]\n") == [
        '2:18: no runtime here serves "sklern" (did you mean "sklearn"?)'
    ]


def test_a_requirement_that_nothing_serves_is_told_with_what_is_served() -> None:
    assert refusals("model", "  requirements: [tensorflow]\n") == [
        '2:18: no runtime here serves "tensorflow" (supported are sklearn, xgboost, lightgbm, onnx, mlserver)'
    ]


def test_an_explainer_is_checked_as_one() -> None:
    assert refusals("python:a:b", "  explainer: {type: anchor, modelRef: iris}\n") == [
        '2:21: explainers of type "anchor" are not supported (supported are kernel_shap and tree_shap, by shap)',
        (
            '1:15: "python:a:b" is no background data, which an explainer\'s storageUri names '
            "(name a .csv or .npy file, or leave it out)"
        ),
    ]


def make(folder: Path, found: Model, *, trusted: bool = True, allow_pickle: bool = False) -> Any:
    """The runtime, with a cache beside the folder."""
    settings = Settings(allow_pickle=allow_pickle, artefact_cache=str(folder.parent / "cache"))
    return choice.make(found, folder, settings, trusted=trusted)


@pytest.mark.parametrize(
    ("scheme", "transport"),
    [("grpc", GrpcTransport), ("grpcs", GrpcTransport), ("http", RestTransport), ("https", RestTransport)],
)
def test_a_server_is_reached_by_a_remote_runtime(tmp_path: Path, scheme: str, transport: type) -> None:
    made = make(tmp_path, model(f"{scheme}://h:80/other"))
    assert isinstance(made, RemoteRuntime)
    assert (made._server.name, made._server.model, type(made._transport)) == ("iris", "other", transport)


def test_requests_to_a_server_are_stacked_where_that_is_asked_for(tmp_path: Path) -> None:
    made = make(tmp_path, model("grpc://h:80", parameter("max_batch_size", "8")))
    assert isinstance(made, StackedRuntime)


def test_a_servers_model_has_no_processes_here() -> None:
    assert refusals("grpc://h:80", parameter("processes", "2")) == [
        '2:23: parameter "processes" is for models that compute here, and this one is a server\'s'
    ]


def test_a_callable_runs_in_this_process_with_its_parameters(tmp_path: Path) -> None:
    rest = "  parameters: [{name: max_batch_size, value: '8'}, {name: threads, value: '1'}]\n"
    made = make(tmp_path, model("python:a:b", rest))
    assert isinstance(made, InProcessRuntime)
    assert (made.max_rows, made.threads) == (8, 1)


async def test_a_callable_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "where.py").write_text("import os\ndef f():\n    return {'pid': [os.getpid()]}\n")
    made = make(tmp_path, model("python:where:f", "  parameters: [{name: processes, value: '1'}]\n"))
    await made.load()
    try:
        [part] = [part async for part in made.infer(Columns([b""], (), ()), [()], 30.0)]
    finally:
        await made.unload()
    assert part.outcome.array(0, 0).tolist() != [os.getpid()]


def test_requests_are_not_stacked_unless_asked_for(tmp_path: Path) -> None:
    assert make(tmp_path, model("python:a:b")).max_rows is None


SKLEARN = "  requirements: [sklearn]\n"
PICKLE = "its artefact unpickles, which runs code"
IRIS = Path(__file__).parents[2] / "pipelines" / "iris"
FLOWERS = Columns(
    [b"a"], (TensorSpec("predict", "FP64", (2, 4)),), (np.array([[[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]]),)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A resource file's, with the sample's artefact beside."""
    shutil.copytree(IRIS, tmp_path / "folder" / "iris")
    return tmp_path / "folder"


@pytest.fixture
def server() -> Iterator[FileServer]:
    """Serves the sample's artefact as a zip file."""
    with FileServer() as serving:
        packed = zipped({"iris/model.joblib": (IRIS / "model.joblib").read_bytes()})
        serving.files["/models/iris.zip"] = Served(packed, etag='"1"')
        yield serving


async def species(runtime: InProcessRuntime) -> list[int]:
    """What a runtime says of two flowers, once it is loaded."""
    await runtime.load()
    try:
        [part] = [part async for part in runtime.infer(FLOWERS, [()], 30.0)]
        assert isinstance(part.outcome, Columns)
        return np.asarray(part.outcome.cells[0]).reshape(-1).tolist()
    finally:
        await runtime.unload()


async def refusal(runtime: InProcessRuntime) -> str:
    with pytest.raises(RuntimeUnavailable) as caught:
        await runtime.load()
    return caught.value.reason


def test_an_artefact_over_http_is_known_by_its_requirements(tmp_path: Path) -> None:
    assert isinstance(make(tmp_path, model("http://h:80/model.zip", SKLEARN)), InProcessRuntime)


@pytest.mark.parametrize("uri", ["iris", "iris/model.joblib", "./iris/../iris"])
async def test_an_artefact_beside_a_named_resource_file_is_loaded(folder: Path, uri: str) -> None:
    assert await species(make(folder, model(uri, SKLEARN))) == [0, 2]


async def test_an_artefact_of_a_resource_that_nobody_named_is_refused(folder: Path) -> None:
    assert (await refusal(make(folder, model("iris", SKLEARN), trusted=False))).startswith(PICKLE)
    assert await species(make(folder, model("iris", SKLEARN), trusted=False, allow_pickle=True)) == [0, 2]


async def test_an_artefact_elsewhere_is_refused_even_to_a_named_resource_file(folder: Path) -> None:
    for uri in ("../folder/iris", str(IRIS), f"file://{IRIS}"):
        (folder / "inner").mkdir(exist_ok=True)
        assert "leads out of the resource file's folder" in await refusal(make(folder / "inner", model(uri, SKLEARN)))


async def test_a_link_that_leads_elsewhere_is_refused(folder: Path) -> None:
    (folder / "linked").symlink_to(IRIS)
    assert "leads out of the resource file's folder" in await refusal(make(folder, model("linked", SKLEARN)))


@pytest.mark.parametrize("uri", [str(IRIS), f"file://{IRIS}/model.joblib"])
async def test_an_artefact_elsewhere_is_taken_where_the_setting_allows_it(folder: Path, uri: str) -> None:
    assert await species(make(folder, model(uri, SKLEARN), trusted=False, allow_pickle=True)) == [0, 2]


async def test_an_artefact_served_as_a_zip_file_is_loaded_and_answers(folder: Path, server: FileServer) -> None:
    fetched = model(f"{server.url}/models/iris.zip", SKLEARN)
    assert await species(make(folder, fetched, allow_pickle=True)) == [0, 2]
    assert await species(make(folder, fetched, allow_pickle=True)) == [0, 2]
    assert server.fetches() == 1


async def test_an_artefact_from_elsewhere_that_may_run_code_is_not_even_fetched(
    folder: Path, server: FileServer
) -> None:
    assert (await refusal(make(folder, model(f"{server.url}/models/iris.zip", SKLEARN)))).startswith(PICKLE)
    assert server.asked == []


async def test_an_artefact_that_came_from_elsewhere_is_not_trusted_because_of_where_the_cache_is(
    folder: Path, server: FileServer
) -> None:
    cache = folder / "cache"
    settings = Settings(allow_pickle=True, artefact_cache=str(cache))
    fetched = choice.make(model(f"{server.url}/models/iris.zip", SKLEARN), folder, settings, trusted=True)
    assert isinstance(fetched, InProcessRuntime)
    assert await species(fetched) == [0, 2]
    [kept] = cache.rglob("model.joblib")
    settings = Settings(artefact_cache=str(cache))
    named = choice.make(model(str(kept.relative_to(folder)), SKLEARN), folder, settings, trusted=True)
    assert isinstance(named, InProcessRuntime)
    assert (await refusal(named)).startswith(PICKLE)


async def test_a_folder_without_the_model_is_told_with_its_address(folder: Path, server: FileServer) -> None:
    server.files["/none.zip"] = Served(zipped({"readme": b"1", "other": b"2"}))
    uri = f"{server.url}/none.zip"
    said = await refusal(make(folder, model(uri, SKLEARN), allow_pickle=True))
    assert said.startswith(f'"{uri}": loading ')


async def test_an_artefact_that_is_not_there_is_told_with_its_address(folder: Path, server: FileServer) -> None:
    uri = f"{server.url}/none.zip"
    said = await refusal(make(folder, model(uri, SKLEARN), allow_pickle=True))
    assert said == f'"{uri}": the server answers 404 Not Found'
