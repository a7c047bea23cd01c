"""MLServer's own clients call the port: its codecs over REST and gRPC, and `mlserver infer`, its batches of a file.

MLServer registers `inference.*` in protobuf's default pool, as other clients do: it has processes of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from programs import run

if TYPE_CHECKING:
    from product import Product

SCRIPT = Path(__file__).parent / "mlserver_codecs.py"
MLSERVER = str(Path(sys.executable).with_name("mlserver"))
CODECS = [
    "Base64Codec",
    "DatetimeCodec",
    "NumpyCodec",
    "NumpyRequestCodec",
    "PandasCodec",
    "StringCodec",
    "StringRequestCodec",
]


@pytest.mark.parametrize("door", ["rest", "grpc"])
async def test_what_its_codecs_encode_they_decode_of_the_answer(identity: Product, door: str) -> None:
    said = await run(
        *(sys.executable, "-W", "ignore", str(SCRIPT), door, identity.address),
        *("models/mirror", "pipelines/mirrors"),
    )
    assert json.loads(said) == CODECS


def requests_of(*ids: str) -> list[dict[str, Any]]:
    """A line of the file for each: two tensors, of numbers and of text."""
    return [
        {
            "id": id_,
            "inputs": [
                {"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [number, 0.1]},
                {
                    "name": "s",
                    "datatype": "BYTES",
                    "shape": [1, 1],
                    "data": [id_],
                    "parameters": {"content_type": "str"},
                },
            ],
        }
        for number, id_ in enumerate(ids)
    ]


PIPELINE = ["--request-headers", "seldon-model: mirrors.pipeline"]


@pytest.mark.parametrize(
    "options",
    [["--batch-size", "1"], ["--batch-size", "4", *PIPELINE], ["--batch-size", "4", "--binary-data", *PIPELINE]],
    ids=["single", "batches", "binary"],
)
async def test_each_line_of_a_batch_gets_its_answer(identity: Product, tmp_path: Path, options: list[str]) -> None:
    ids = ["a", "b", "c", "d", "e"]
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(f"{json.dumps(line)}\n" for line in requests_of(*ids)))
    await run(
        *(MLSERVER, "infer", "--url", identity.address, "--model-name", "mirror", "--transport", "rest"),
        *("--input-data-path", str(asked), "--output-data-path", str(answered), "--workers", "2", *options),
    )
    answers = {line["id"]: line for line in map(json.loads, answered.read_text().splitlines())}
    assert sorted(answers) == ids
    for number, id_ in enumerate(ids):
        [x, s] = answers[id_]["outputs"]
        assert (x["name"], x["shape"], x["data"]) == ("x", [1, 2], [number, 0.1]), answers[id_]
        assert (s["name"], s["shape"], s["data"]) == ("s", [1, 1], [id_]), answers[id_]


async def test_lines_that_are_refused_say_so(identity: Product, tmp_path: Path) -> None:
    asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(f"{json.dumps(line)}\n" for line in requests_of("a")))
    await run(
        *(MLSERVER, "infer", "--url", identity.address, "--model-name", "none", "--retries", "1"),
        *("--input-data-path", str(asked), "--output-data-path", str(answered)),
    )
    [line] = answered.read_text().splitlines()
    assert 'no model "none" is loaded' in json.loads(line)["error"]["msg"]
