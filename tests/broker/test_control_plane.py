"""What the control plane says is so: of loads that are waited for, models that go away, gateways, and the dead."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from product import get, infer, inputs, seldon, wait_until
from resource_files import copy, write

from engine.kafka.client import Topology
from engine.kafka.registry import Registry
from engine.protocol.record import Topics
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product, Said

    from engine.kafka.view import View

    SeldonUp = Callable[..., Product]
    Command = Callable[..., Said]

SAME = "def model(INPUT):\n    return {'OUTPUT': INPUT}\n"
BROKEN = "raise RuntimeError('no such thing')\n"
SLOW_TO_LOAD = """\
import time


class model:
    def load(self):
        time.sleep(1.5)

    def infer(self, INPUT):
        return {"OUTPUT": INPUT}
"""
REMOTE = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: number}
spec: {storageUri: "http://ADDRESS"}
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: numbers}
spec: {steps: [{name: number}], output: {steps: [number]}}
"""

DEADLINE = 30


@pytest.fixture
def command(broker: str, namespace: str) -> Command:
    """Runs `seldon ...` against the test's broker and namespace."""
    return lambda *arguments: seldon(*arguments, "--kafka-broker", broker, "--namespace", namespace)


def view_of(broker: str, namespace: str) -> View:
    """All that the topics of a namespace say."""

    async def read() -> View:
        settings = Settings(kafka_broker=broker, namespace=namespace)
        topology = Topology(settings)
        await topology.start()
        registry = Registry(settings, Topics(settings.topic_prefix, namespace))
        try:
            await registry.start(topology, follow=False)
            return registry.view
        finally:
            await registry.stop()
            await topology.stop()

    return asyncio.run(read())


def state(command: Command, pipeline: str = "numbers") -> dict[str, Any]:
    """Status and reason of a pipeline."""
    found: dict[str, Any] = json.loads(command("pipeline", "status", pipeline).out)["versions"][0]["state"]
    return found


def test_who_waits_for_a_load_may_call_at_once_through_every_gateway(
    seldon_up: SeldonUp, command: Command, tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SLOW_TO_LOAD)
    seldon_up("worker").start()
    gateways = [seldon_up("gateway").start() for _ in range(2)]
    loaded = command("load", "-f", path, "-w")
    assert (loaded.code, loaded.out) == (0, "{}\n{}\n"), loaded
    assert "waiting for " in loaded.err, loaded
    for gateway in gateways:
        assert infer(gateway.address, "pipelines/numbers", inputs(INPUT=[3])).output("OUTPUT") == [3]
    gone = command("unload", "-f", path, "-w")
    assert (gone.code, gone.out) == (0, "{}\n{}\n"), gone
    for gateway in gateways:
        assert infer(gateway.address, "pipelines/numbers", inputs(INPUT=[3])).status == 404


def test_who_waits_for_a_load_that_fails_hears_the_reason_at_once(
    seldon_up: SeldonUp, command: Command, tmp_path: Path
) -> None:
    seldon_up("worker").start()
    since = time.monotonic()
    loaded = command("load", "-f", write(tmp_path / "first", BROKEN), "-w", "-t", "20")
    assert (loaded.code, loaded.out) == (1, "{}\n{}\n"), loaded
    [error] = [line for line in loaded.err.splitlines() if line.startswith("Error: ")]
    assert error.startswith("Error: model number has failed: "), loaded
    assert "no such thing" in error, loaded
    assert 'pipeline numbers has failed: model "number": ' in error, loaded
    assert time.monotonic() - since < 20, "it waited for its whole time"


def test_a_version_that_cannot_be_loaded_has_failed_and_the_one_before_goes_on(
    seldon_up: SeldonUp, command: Command, broker: str, namespace: str, tmp_path: Path
) -> None:
    running = seldon_up("up", write(tmp_path / "first", SAME)).start()
    loaded = command("load", "-f", write(tmp_path / "second", BROKEN), "-w", "-t", "20")
    assert (loaded.code, "Error: model number has failed: " in loaded.err) == (1, True), loaded
    assert infer(running.address, "pipelines/numbers", inputs(INPUT=[3])).output("OUTPUT") == [3]

    def look() -> tuple[float, float]:
        view = view_of(broker, namespace)
        [instance], [state] = view.instances.values(), view.states["model", "number"].values()
        assert state.state == "failed", state
        return instance.at, state.at

    beat, told = look()
    wait_until(lambda: look()[0] > beat + 5, "it goes on beating", DEADLINE)
    assert look()[1] == told, "it is told again and again"


def test_a_model_that_goes_away_makes_its_pipeline_not_ready_under_its_name(
    seldon_up: SeldonUp, command: Command, tmp_path: Path, namespace: str
) -> None:
    served = write(tmp_path / "served", SAME)
    server = seldon_up("up", served, namespace=f"{namespace}s").start()
    port = server.address.rpartition(":")[2]
    path = tmp_path / "remote.yaml"
    path.write_text(REMOTE.replace("ADDRESS", server.address))
    running = seldon_up("up", path).start()
    assert infer(running.address, "pipelines/numbers", inputs(INPUT=[3])).output("OUTPUT") == [3]
    server.stop()
    wait_until(lambda: state(command)["status"] == "PipelineFailed", lambda: str(state(command)), DEADLINE)
    assert state(command)["reason"] == 'model "number": the model does not answer that it is ready'
    assert get(running.address, "/v2/pipelines/numbers/ready").status == 503
    seldon_up("up", served, namespace=f"{namespace}s", listen=f"127.0.0.1:{port}").start()
    waited = command("pipeline", "status", "numbers", "-w", "PipelineReady", "-t", DEADLINE)
    assert waited.code == 0, waited
    wait_until(lambda: get(running.address, "/v2/pipelines/numbers/ready").status == 200, "ready again", DEADLINE)


def test_a_gateway_that_cannot_route_yet_is_waited_for_by_name(
    seldon_up: SeldonUp, command: Command, tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path).start()
    gateway = seldon_up("gateway").start()
    extra = copy(path, model="extra", pipeline="extras")
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        late = command("load", "-f", extra, "-w", "-t", "3")
        assert late.code == 1, late
        assert late.err.splitlines()[-1].startswith("Error: not within 3 s: "), late
        assert state(command, "extras")["status"] == "PipelineCreating"
        reason = state(command, "extras")["reason"].split()
        assert (reason[0], reason[2:]) == ("gateway", ["cannot", "route", "to", "it", "yet"])
        assert infer(running.address, "pipelines/extras", inputs(INPUT=[4])).output("OUTPUT") == [4]
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    loaded = command("load", "-f", extra, "-w")
    assert loaded.code == 0, loaded
    assert infer(gateway.address, "pipelines/extras", inputs(INPUT=[4])).output("OUTPUT") == [4]


def test_nothing_of_those_who_stopped_stays_on_the_status_topic(
    seldon_up: SeldonUp, broker: str, namespace: str, tmp_path: Path
) -> None:
    running = [seldon_up("worker", write(tmp_path / "first", SAME)).start(), seldon_up("gateway").start()]
    parts = sorted(instance.parts for instance in view_of(broker, namespace).instances.values())
    assert parts == [("gateway",), ("worker",)]
    for product in running:
        product.stop()
    view = view_of(broker, namespace)
    assert (view.instances, view.states) == ({}, {})
    assert list(view.resources) == [("model", "number"), ("pipeline", "numbers")]
