from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import RuntimeUnavailable
from engine.resources import Model, documents, parse
from engine.runtimes import choice
from engine.runtimes.inprocess import InProcessRuntime
from engine.runtimes.remote import RemoteRuntime
from engine.runtimes.remote_grpc import GrpcTransport
from engine.runtimes.remote_rest import RestTransport

if TYPE_CHECKING:
    from pathlib import Path

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


def test_an_artefact_from_the_network_is_not_supported_yet() -> None:
    assert refusals("https://h/model.zip", "  requirements: [sklearn]\n") == [
        (
            '1:15: "https://h/model.zip": artefacts from the network are not supported yet '
            "(without requirements it is the address of a V2 server)"
        )
    ]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_address_that_nothing_here_opens_is_refused(scheme: str) -> None:
    assert refusals(f"{scheme}://a/b") == [
        (
            f'1:15: "{scheme}://a/b": {scheme}: addresses are not supported yet '
            "(supported are grpc://, grpcs://, http://, https://, python:, file:// and paths)"
        )
    ]


def test_an_artefact_without_requirements_is_refused() -> None:
    assert refusals("model") == ['1:3: model "iris" says not what loads its artefact (requirements: [sklearn])']


def test_a_requirement_that_is_near_a_known_one_is_told() -> None:
    assert refusals("model", "  requirements: [sklern]\n") == [
        '2:18: no runtime here serves "sklern" (did you mean "sklearn"?)'
    ]


def test_a_requirement_that_nothing_serves_is_told_with_what_is_served() -> None:
    assert refusals("model", "  requirements: [tensorflow]\n") == [
        '2:18: no runtime here serves "tensorflow" (supported are sklearn)'
    ]


@pytest.mark.parametrize("name", ["max_batch_size", "threads"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "²", "9" * 5000])
def test_a_count_that_is_none_is_refused(name: str, value: str) -> None:
    [refusal] = refusals("python:a:b", parameter(name, value))
    assert refusal.endswith(f'parameter "{name}" is "{value}"; it must be a whole number above 0')


def test_a_batch_delay_is_not_supported_yet() -> None:
    assert refusals("python:a:b", parameter("max_batch_delay_ms", "5")) == [
        '2:23: parameter "max_batch_delay_ms" is not supported yet (requests of one fetch are stacked)'
    ]


def test_an_explainer_is_not_supported_yet() -> None:
    assert refusals("python:a:b", "  explainer: {type: anchor, modelRef: iris}\n") == [
        '2:14: model "iris" is an explainer: not supported yet'
    ]


def make(folder: Path, found: Model, **given: Any) -> Any:
    return choice.make(found, folder, **{"max_message_bytes": 1 << 20, "allow_pickle": False, "trusted": True, **given})


@pytest.mark.parametrize(
    ("scheme", "transport"),
    [("grpc", GrpcTransport), ("grpcs", GrpcTransport), ("http", RestTransport), ("https", RestTransport)],
)
def test_a_server_is_reached_by_a_remote_runtime(tmp_path: Path, scheme: str, transport: type) -> None:
    made = make(tmp_path, model(f"{scheme}://h:80/other"))
    assert isinstance(made, RemoteRuntime)
    assert (made._server.name, made._server.model, type(made._transport)) == ("iris", "other", transport)


def test_a_callable_runs_in_this_process_with_its_parameters(tmp_path: Path) -> None:
    rest = "  parameters: [{name: max_batch_size, value: '8'}, {name: threads, value: '1'}]\n"
    made = make(tmp_path, model("python:a:b", rest))
    assert isinstance(made, InProcessRuntime)
    assert (made.max_rows, made.threads) == (8, 1)


def test_requests_are_not_stacked_unless_asked_for(tmp_path: Path) -> None:
    assert make(tmp_path, model("python:a:b")).max_rows is None


SKLEARN = "  requirements: [sklearn]\n"
PICKLE = "its artefact unpickles, which runs code"


def test_an_artefact_beside_a_named_resource_file_is_taken(tmp_path: Path) -> None:
    assert isinstance(make(tmp_path, model("a/model.joblib", SKLEARN)), InProcessRuntime)


def test_an_artefact_of_a_resource_that_nobody_named_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=PICKLE):
        make(tmp_path, model("model.joblib", SKLEARN), trusted=False)


@pytest.mark.parametrize("uri", ["../model.joblib", "/elsewhere/model.joblib", "file:///elsewhere/model.joblib"])
def test_an_artefact_elsewhere_is_refused_even_to_a_named_resource_file(tmp_path: Path, uri: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=PICKLE):
        make(tmp_path / "folder", model(uri, SKLEARN))


def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.joblib").symlink_to(tmp_path / "model.joblib")
    with pytest.raises(RuntimeUnavailable, match=PICKLE):
        make(tmp_path / "folder", model("model.joblib", SKLEARN))


def test_any_artefact_is_taken_where_the_setting_allows_it(tmp_path: Path) -> None:
    made = make(tmp_path, model("/elsewhere/model.joblib", SKLEARN), trusted=False, allow_pickle=True)
    assert isinstance(made, InProcessRuntime)
