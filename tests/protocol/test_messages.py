from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from engine.protocol import messages
from engine.protocol.messages import ModelInferRequest, ModelInferResponse

ROOT = Path(__file__).parents[2]

# Their modules, which all register `inference.*` in protobuf's default pool: one process holds one of them.
FOREIGN = ("mlserver.grpc.dataplane_pb2", "tritonclient.grpc.service_pb2")

OURS_BESIDE_THEIRS = """
import importlib, sys
order = sys.argv[2:]
for name in order:
    importlib.import_module(name)
ours = sys.modules["engine.protocol.messages"]
theirs = sys.modules[sys.argv[1]]

def fill(message, items, raw):
    message.model_name, message.model_version, message.id = "iris", "3", "r1"
    message.parameters["flag"].bool_param = True
    message.parameters["count"].int64_param = -(1 << 60)
    message.parameters["text"].string_param = "é"
    item = getattr(message, items).add(name="x", datatype="INT32", shape=[2, 1])
    item.parameters["content_type"].string_param = "np"
    item.contents.int_contents.extend([1, -1])
    getattr(message, raw).append(bytes(8))
    return message

for name, items, raw in (
    ("ModelInferRequest", "inputs", "raw_input_contents"),
    ("ModelInferResponse", "outputs", "raw_output_contents"),
):
    mine, other = getattr(ours, name), getattr(theirs, name)
    a, b = fill(mine(), items, raw), fill(other(), items, raw)
    assert a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True), name
    assert other.FromString(a.SerializeToString()) == b, name
    assert mine.FromString(b.SerializeToString()) == a, name
print("interchangeable")
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_messages_live_beside_a_package_that_has_the_same_names_and_share_its_bytes(foreign: str, first: str) -> None:
    order = ["engine.protocol.messages", foreign]
    command = [
        sys.executable,
        "-c",
        OURS_BESIDE_THEIRS,
        foreign,
        *(order if first == "ours" else order[::-1]),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("interchangeable\n", 0), done.stderr


def test_the_committed_descriptor_is_what_protoc_makes_of_the_proto(tmp_path: Path) -> None:
    compiled = tmp_path / "v2.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "apis", f"--descriptor_set_out={compiled}"]
    command.append("mlops/v2_dataplane/v2_dataplane.proto")
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    committed = (ROOT / "engine/protocol/v2_dataplane.binpb").read_bytes()
    parse = descriptor_pb2.FileDescriptorSet.FromString
    assert parse(committed) == parse(compiled.read_bytes())


def test_messages_stay_out_of_the_default_pool() -> None:
    assert ModelInferRequest.DESCRIPTOR.file.pool is not descriptor_pool.Default()


def test_the_service_has_every_call_of_the_protocol() -> None:
    service = messages.POOL.FindServiceByName(messages.SERVICE)
    assert {method.name for method in service.methods} == {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
        "ModelStreamInfer",
    }


def test_every_public_name_is_listed() -> None:
    listed = {name for name in messages.__all__ if name not in ("POOL", "SERVICE", "DecodeError", "Message")}
    top_level = set(ModelInferRequest.DESCRIPTOR.file.message_types_by_name)
    assert listed == top_level


def test_requests_and_responses_put_parameters_and_ids_at_the_same_numbers() -> None:
    for name in ("id", "parameters"):
        numbers = {kind.DESCRIPTOR.fields_by_name[name].number for kind in (ModelInferRequest, ModelInferResponse)}
        assert len(numbers) == 1
