"""The Open Inference Protocol's own OpenAPI document, as MLServer's wheel carries it, against the running product.

schemathesis makes requests as the document says, and as it does not; every answer is held against the document.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.generation import GenerationMode

from engine.protocol import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from product import Product

# `make nightly` makes two thousand calls to each path.
pytestmark = pytest.mark.timeout(3600)
EXAMPLES, CALLS_TAKE_LONGER = 50, 10

THERE = {"model_name": ["same", "same-again", "mirror"], "model_version": ["1"]}

# What MLServer and LLM servers have beside the protocol.
NO_PATHS_OF_OURS = ("generate", "generate_stream", "infer_stream")


def mended() -> dict[str, Any]:
    """The document with the paths that we serve, and without its own slips."""
    spec = importlib.util.find_spec("mlserver")
    assert spec is not None
    assert spec.origin is not None
    document: dict[str, Any] = json.loads((Path(spec.origin).parent / "rest/openapi/dataplane.json").read_text())
    paths = document["paths"]
    document["paths"] = {path: item for path, item in paths.items() if not path.endswith(NO_PATHS_OF_OURS)}
    # JSON has no bytes: what is meant are the strings of an array.
    document["components"]["schemas"]["TensorData"] = {"type": "array"}
    for path, item in document["paths"].items():
        for parameter in item.get("parameters", ()):
            # Names that nobody loaded are tried as well, and versions; few of them would be there by chance.
            if parameter["name"] in THERE:
                parameter["schema"] = {"anyOf": [{"enum": THERE[parameter["name"]]}, {"type": "string"}]}
        if "{model_name}" in path:
            _tell_of_refusals(item)
    return document


def _tell_of_refusals(item: dict[str, Any]) -> None:
    """No status stands there for a model that is not there, or whose name cannot be one."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/MetadataModelErrorResponse"}}}
    for operation in (item[method] for method in ("get", "post") if method in item):
        for status in ("400", "404"):
            operation["responses"].setdefault(status, {"description": "refused", "content": error})


SCHEMA = schemathesis.openapi.from_dict(mended())
OPERATIONS = {operation.label: operation for operation in (found.ok() for found in SCHEMA.get_all_operations())}
INFER = OPERATIONS["POST /v2/models/{model_name}/infer"]

# Checks of schemathesis that are not asked, and why.
EXCLUDED = {
    checks.positive_data_acceptance: "data that does not fill its shape is as the document says, and is refused",
    checks.negative_data_rejection: "null for an optional member is no string, and counts as absent",
}


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all calls: it has to be usable after each."""
    with requests.Session() as it:
        yield it


# What takes a body or a parameter of the query can be asked wrongly; of a path that has neither, all is right.
ASKED = [(label, GenerationMode.POSITIVE) for label in OPERATIONS] + [
    (label, GenerationMode.NEGATIVE) for label in OPERATIONS if label.startswith("POST")
]

ROW = [1, 0]
ROWS: dict[str, list[Any]] = {"BOOL": [True, False], "BYTES": ["a", "é"], "FP32": [0.5, None], "FP64": [1e300, -0.0]}
DATATYPES = [name for name in tensors.DATATYPES if name != "BF16"]  # which the document does not know


@pytest.mark.parametrize(("label", "mode"), ASKED, ids=lambda part: getattr(part, "value", part))
def test_whatever_is_asked_the_answer_is_as_the_document_says(
    identity: Product, session: requests.Session, label: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[label]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        deadline=None,
        max_examples=max(EXAMPLES, settings.default.max_examples // CALLS_TAKE_LONGER),
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=f"http://{identity.address}", session=session, excluded_checks=list(EXCLUDED))

    ask()


@pytest.mark.parametrize("headers", [{}, {"seldon-model": "mirrors.pipeline"}], ids=["model", "pipeline"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_an_answer_of_each_datatype_is_as_the_document_says(
    identity: Product, session: requests.Session, datatype: str, headers: dict[str, str]
) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": datatype, "data": ROWS.get(datatype, ROW)}
    case = INFER.Case(
        path_parameters={"model_name": "mirror"},
        body={"id": "7", "inputs": [tensor], "outputs": [{"name": "x"}]},
        media_type="application/json",
    )
    answer = case.call_and_validate(
        base_url=f"http://{identity.address}", session=session, headers=headers, excluded_checks=list(EXCLUDED)
    )
    assert (answer.status_code, answer.json()["id"]) == (200, "7")
