"""docker-compose.yml is valid, and keeps the conventions that a broker in containers needs to work."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft7Validator

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return parsed


def test_it_fits_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text(encoding="utf-8"))
    assert [error.message for error in Draft7Validator(schema).iter_errors(compose)] == []


def test_it_has_no_version_and_its_services_scale(compose: dict[str, Any]) -> None:
    assert "version" not in compose
    assert set(compose["services"]) == {"kafka", "gateway", "worker"}
    assert not [name for name, service in compose["services"].items() if "container_name" in service]


def test_every_service_is_restarted_reaped_and_without_new_privileges(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["restart"] == "unless-stopped"
        assert service["init"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "stop_grace_period" in service


def test_only_the_gateway_is_reached_from_other_machines(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert ports == {"kafka": ["127.0.0.1:9092:9092"], "gateway": ["9000:9000"], "worker": []}


def test_the_broker_is_an_exact_version_with_a_named_volume(compose: dict[str, Any]) -> None:
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == "apache/kafka:4.3.1"
    volume, _, folder = kafka["volumes"][0].partition(":")
    assert volume in compose["volumes"]
    assert folder == kafka["environment"]["KAFKA_LOG_DIRS"]


def test_every_factor_of_a_single_node_is_one(compose: dict[str, Any]) -> None:
    settings = compose["services"]["kafka"]["environment"]
    factors = {name: value for name, value in settings.items() if name.endswith(("_FACTOR", "_MIN_ISR"))}
    assert factors == {
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": 1,
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": 1,
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": 1,
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": 1,
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": 1,
    }
    assert settings["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert settings["KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS"] == 0


def test_containers_and_host_are_told_different_names_of_the_broker(compose: dict[str, Any]) -> None:
    settings = compose["services"]["kafka"]["environment"]
    advertised = dict(one.split("://") for one in settings["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listeners = dict(one.split("://") for one in settings["KAFKA_LISTENERS"].split(","))
    protocols = dict(one.split(":") for one in settings["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert advertised == {"PLAINTEXT": "kafka:19092", "PLAINTEXT_HOST": "localhost:9092"}
    assert set(listeners) == {*advertised, settings["KAFKA_CONTROLLER_LISTENER_NAMES"]} == set(protocols)


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_the_engine_waits_for_a_broker_that_serves(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert "--kafka-broker kafka:19092" in service["command"]
    assert service["build"] == "."


def test_health_is_asked_of_what_serves(compose: dict[str, Any]) -> None:
    kafka, gateway = (compose["services"][name]["healthcheck"] for name in ("kafka", "gateway"))
    assert "kafka-broker-api-versions.sh" in kafka["test"][1]
    assert gateway["test"][:2] == ["CMD", "python"]
    assert "http://127.0.0.1:9000/v2/health/ready" in gateway["test"][-1]


def test_pipelines_are_mounted_read_only_where_the_image_has_them(compose: dict[str, Any]) -> None:
    assert compose["services"]["worker"]["volumes"] == ["./pipelines:/app/pipelines:ro"]
    assert "WORKDIR /app\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


SERVED_SECONDS = 60


def test_the_gateways_and_the_workers_commands_run_against_a_real_kafka(
    compose: dict[str, Any], kafka_broker: str, namespace: str
) -> None:
    services = compose["services"]
    port = free_port()
    environment = {**os.environ, "POD_NAMESPACE": namespace}
    commands = [in_this_place(services[name]["command"].split(), kafka_broker, port) for name in ("worker", "gateway")]
    seldon = str(Path(sys.executable).with_name("seldon"))
    running = [subprocess.Popen([seldon, *command], cwd=ROOT, env=environment) for command in commands]
    try:
        healthy = in_this_place(services["gateway"]["healthcheck"]["test"][1:], kafka_broker, port)
        until(lambda: subprocess.run([sys.executable, *healthy[1:]], capture_output=True, check=False).returncode == 0)
        until(lambda: infer(port) == [2] * 16)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(30) for process in running]
    assert codes == [0, 0]


def in_this_place(command: list[str], kafka: str, port: int) -> list[str]:
    """A service's command with the addresses of this machine for those of the containers."""
    return [
        part.replace("kafka:19092", kafka).replace("0.0.0.0:9000", f"127.0.0.1:{port}").replace(":9000/", f":{port}/")
        for part in command
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SERVED_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "the services did not come up in time"
        time.sleep(0.2)


def infer(port: int) -> list[int] | None:
    """OUTPUT0 of a tfsimples call of ones; None while it is not answered."""
    tensors = [{"name": name, "shape": [1, 16], "datatype": "INT32", "data": [1] * 16} for name in ("INPUT0", "INPUT1")]
    body = json.dumps({"inputs": tensors})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v2/pipelines/tfsimples/infer", body)
        answer = connection.getresponse()
        data = json.loads(answer.read())
    except OSError:
        return None
    finally:
        connection.close()
    return data["outputs"][0]["data"] if answer.status == 200 else None
