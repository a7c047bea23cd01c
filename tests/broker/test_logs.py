"""What stands in the log: the requests that lines concern, and never what callers sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from product import GrpcFailed, grpc_infer, infer, inputs, message, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product

    SeldonUp = Callable[..., Product]

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\n"
# Numbers and texts that stand nowhere by chance, in any of the ways in which they are written.
NUMBER, WORD = 1234567, "payload-4711-marked"
MARKS = (str(NUMBER), WORD, NUMBER.to_bytes(4, "little").decode("latin-1"))
MODELS = """
import warnings


def tell(INPUT):
    if INPUT.size > 1:
        raise ValueError(f"{INPUT.tolist()} is too much")
    return {"INPUT": INPUT}


def lie(INPUT):
    warnings.warn("odd values")
    return {"INPUT": [INPUT, {"what": INPUT.tolist()}]}
"""
SOON = 30.0


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    folder = tmp_path / "resources"
    folder.mkdir()
    (folder / "logged.py").write_text(MODELS)
    models = [
        f"---\n{HEAD}kind: Model\nmetadata: {{name: {name}}}\nspec: {{storageUri: 'python:logged:{name}'}}\n"
        for name in ("tell", "lie")
    ]
    pipelines = [
        f"---\n{HEAD}kind: Pipeline\nmetadata: {{name: {name}-it}}\n"
        f"spec: {{steps: [{{name: tell}}, {{name: {name}, inputs: [tell]}}], output: {{steps: [{name}]}}}}\n".replace(
            "[{name: tell}, {name: tell, inputs: [tell]}]", "[{name: tell}]"
        )
        for name in ("tell", "lie")
    ]
    (folder / "resources.yaml").write_text("".join([*models, *pipelines]))
    return folder


def lines(product: Product) -> list[dict[str, Any]]:
    """What is not whole yet is not read."""
    return [json.loads(line) for line in product.err.splitlines(keepends=True) if line.endswith("\n")]


def test_no_value_of_a_request_stands_in_the_log_at_any_level(seldon_up: SeldonUp, resources: Path) -> None:
    product = seldon_up("up", resources, settings={"SELDON_LOG_LEVEL": "DEBUG", "SELDON_LOG_FORMAT": "json"}).start()
    for target in ("pipelines/tell-it", "pipelines/lie-it", "models/tell", "models/lie"):
        for count in (1, 2):
            infer(product.address, target, inputs(INPUT=[NUMBER] * count))
            infer(product.address, target, inputs("BYTES", INPUT=[WORD] * count))
    for model in ("tell", "lie"):
        with pytest.raises(GrpcFailed):
            grpc_infer(product.address, message(model, INPUT=[NUMBER, NUMBER]))
    infer(product.address, "pipelines/tell-it", {"inputs": [{"name": WORD, "data": NUMBER}]})
    answer = infer(
        product.address, "pipelines/tell-it", inputs("BYTES", INPUT=[WORD, WORD]), [("x-request-id", "logged-1")]
    )
    # The caller gets to know what the log does not tell.
    assert WORD.encode() in answer.body
    wait_until(lambda: "logged-1" in product.err, "the request in the log", SOON)
    product.stop()
    said = product.err
    assert not [line for line in said.splitlines() if any(mark in line for mark in MARKS)]
    about = [line for line in lines(product) if "logged-1" in line.get("request_ids", ())]
    assert {line["pipeline"] for line in about if "pipeline" in line} == {"tell-it"}
    assert {line["step"] for line in about if "step" in line} == {"tell"}


def test_every_line_is_an_object_and_a_broker_that_goes_away_is_no_flood(seldon_up: SeldonUp, resources: Path) -> None:
    product = seldon_up("up", resources, settings={"SELDON_LOG_LEVEL": "INFO", "SELDON_LOG_FORMAT": "json"}).start()
    infer(product.address, "models/lie", inputs(INPUT=[1]))
    product.stop()
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines(product)))
