"""Starting, stopping, killing, loading and unloading: no request is lost on the way."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from callers import Callers
from product import Product, get, infer, inputs, message, seldon, values, wait_until
from resource_files import add_step, copy, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from product import Said
    from topics import Headers, Kafka, Tap

    SeldonUp = Callable[..., Product]

SAME = "def model(INPUT):\n    return {'OUTPUT': INPUT}\n"
NEGATIVE = "def model(INPUT):\n    return {'OUTPUT': -INPUT}\n"
# Slow enough that a kill meets requests on their way, quick enough for a test.
# Longer than it takes to join a group.
SLOW_TO_LOAD = """\
import time


class model:
    def load(self):
        time.sleep(4)

    def infer(self, INPUT):
        return {"OUTPUT": INPUT}
"""
TAKES_10_MS = "import time\ndef model(INPUT):\n    time.sleep(0.01)\n    return {'OUTPUT': INPUT}\n"

READ_DEADLINE = 45.0


@pytest.fixture
def command(broker: str, namespace: str) -> Callable[..., Said]:
    """Runs `seldon ...` against the test's broker and namespace."""
    return lambda *arguments: seldon(*arguments, "--kafka-broker", broker, "--namespace", namespace)


@pytest.fixture
def ends(namespace: str) -> tuple[str, str]:
    """The inputs and outputs topics of pipeline `numbers`."""
    return (f"seldon.{namespace}.pipeline.numbers.inputs", f"seldon.{namespace}.pipeline.numbers.outputs")


def numbered(count: int, start: int = 0) -> list[tuple[bytes | None, bytes | None, Headers]]:
    """Requests with their numbers as ids, keys and inputs: keys spread them over the partitions."""
    return [
        (
            message(INPUT=[number]).SerializeToString(),
            str(number).encode(),
            [("x-request-id", str(number).encode())],
        )
        for number in range(start, start + count)
    ]


def all_answered(tap: Tap, count: int) -> None:
    """Wait until each of `count` numbered requests has an answer, and check every one."""
    wanted = {str(number) for number in range(count)}
    tap.until(
        lambda tap: wanted <= {record.request_id for record in tap.seen},
        f"answers to all {count} requests",
        READ_DEADLINE,
    )
    for record in tap.seen:
        assert values(record.response, "OUTPUT") == [int(record.request_id or "")], record


def test_resources_are_loaded_listed_and_unloaded_while_a_worker_runs(
    seldon_up: SeldonUp, command: Callable[..., Said], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path).start()
    extra = copy(path, model="extra", pipeline="extras")
    loaded = command("load", "-f", extra)
    assert (loaded.code, loaded.out) == (0, "{}\n{}\n"), loaded
    status = command("pipeline", "status", "extras", "-w", "PipelineReady", "-t", "20")
    assert status.code == 0, status
    assert json.loads(status.out)["versions"][0]["state"]["status"] == "PipelineReady", status
    assert command("model", "status", "extra", "-w", "ModelAvailable").code == 0
    assert infer(running.address, "pipelines/extras", inputs(INPUT=[4])).output("OUTPUT") == [4]
    listed = command("pipeline", "list")
    assert [line.split()[:2] for line in listed.out.splitlines()[2:]] == [
        ["extras", "PipelineReady"],
        ["numbers", "PipelineReady"],
    ], listed
    assert command("unload", "-f", extra).code == 0
    wait_until(lambda: get(running.address, "/v2/pipelines/extras/ready").status == 404, "unloaded for the gateway", 10)
    gone = infer(running.address, "pipelines/extras", inputs(INPUT=[4]))
    assert gone.status == 404, gone
    assert infer(running.address, "pipelines/numbers", inputs(INPUT=[5])).output("OUTPUT") == [5]
    again = command("pipeline", "unload", "extras")
    assert (again.code, "extras" in again.err) == (1, True), again
    running.stop()


def test_a_wait_for_a_state_that_does_not_come_ends_with_the_reason(
    seldon_up: SeldonUp, command: Callable[..., Said], tmp_path: Path
) -> None:
    seldon_up("worker", write(tmp_path / "first", SAME)).start()
    waited = command("pipeline", "status", "nobody", "-w", "PipelineReady", "-t", "1")
    assert waited.code == 1, waited
    assert "pipeline nobody is not loaded" in waited.err, waited
    assert "Traceback" not in waited.err, waited


def test_a_request_that_was_read_is_answered_though_pipeline_and_models_are_unloaded(
    seldon_up: SeldonUp, command: Callable[..., Said], kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    slow = "import time\ndef model(INPUT):\n    time.sleep(1.5)\n    return {'OUTPUT': INPUT}\n"
    path = write(tmp_path / "first", slow)
    add_step(path)
    running = seldon_up("up", path).start()
    with ThreadPoolExecutor(1) as pool, kafka.tap(ends[0]) as requests:
        answer = pool.submit(infer, running.address, "pipelines/numbers", inputs(INPUT=[3]))
        requests.until(lambda tap: bool(tap.seen), "the request on its way")
        unloaded = command("unload", "-f", path)
        assert unloaded.code == 0, unloaded
        assert answer.result(30).output("OUTPUT") == [3]
    running.stop()


def test_a_pipeline_and_its_model_are_swapped_under_load_with_no_request_lost(
    seldon_up: SeldonUp, command: Callable[..., Said], tmp_path: Path
) -> None:
    first, second = write(tmp_path / "first", SAME), write(tmp_path / "second", NEGATIVE)
    running = seldon_up("up", first).start()
    with Callers(running.address) as callers:
        callers.some(1)
        for path, value in ((second, -1), (first, 1), (second, -1)):
            loaded = command("load", "-f", path)
            assert loaded.code == 0, loaded
            callers.some(value)
    assert [str(answer) for answer in callers.answers if answer.status != 200] == []
    running.stop()


def test_a_new_version_of_a_pipeline_takes_over_under_load_with_no_request_lost(
    seldon_up: SeldonUp, command: Callable[..., Said], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path).start()
    with Callers(running.address) as callers:
        callers.some(1)
        add_step(path)
        loaded = command("load", "-f", path)
        assert loaded.code == 0, loaded
        wait_until(
            lambda: any(answer.header("x-pipeline-version") == "2" for answer in callers.answers[-20:]),
            lambda: f"an answer of version 2; the last is {callers.answers[-1]}",
            20,
        )
        callers.some(1)
    assert [str(answer) for answer in callers.answers if answer.status != 200] == []
    running.stop()


def test_a_new_version_loses_no_record_and_runs_none_twice(
    seldon_up: SeldonUp, command: Callable[..., Said], kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", TAKES_10_MS)
    worker = seldon_up("worker", path).start()
    with kafka.all_of(ends[1]) as outputs:
        kafka.send_many(ends[0], numbered(800))
        outputs.until(lambda tap: len(tap.seen) >= 50, "first answers")
        add_step(path)
        loaded = command("load", "-f", path)
        assert loaded.code == 0, loaded
        sent = 800
        # However late the worker hears of it, some requests come before and some after.
        while not any(record.header("x-pipeline-version") == "2" for record in outputs.seen):
            assert sent < 20_000, "no answer of version 2"
            kafka.send_many(ends[0], numbered(200, start=sent))
            sent += 200
            all_answered(outputs, sent)
        assert len(outputs.seen) == sent
        assert outputs.seen[0].header("x-pipeline-version") == "1"
    status = json.loads(command("pipeline", "status", "numbers").out)["versions"][0]
    assert (status["pipeline"]["version"], status["state"]["status"]) == (2, "PipelineReady")
    worker.stop()


def test_requests_sent_while_no_worker_runs_are_answered_when_one_does(
    seldon_up: SeldonUp, kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    seldon_up("worker", path).start().stop()
    kafka.send_many(ends[0], numbered(200))
    worker = seldon_up("worker", path).start()
    with kafka.all_of(ends[1]) as outputs:
        all_answered(outputs, 200)
        assert len(outputs.seen) == 200, "nothing failed, so nothing runs twice"
    worker.stop()


def test_requests_that_wait_for_a_worker_wait_for_a_model_that_loads_slowly_too(
    seldon_up: SeldonUp, kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SLOW_TO_LOAD)
    seldon_up("worker", path).start().stop()
    kafka.send_many(ends[0], numbered(20))
    worker = seldon_up("worker", path).start()
    with kafka.all_of(ends[1]) as outputs:
        all_answered(outputs, 20)
    worker.stop()


def test_a_stop_under_load_loses_nothing_and_ends_with_0(
    seldon_up: SeldonUp, kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", TAKES_10_MS)
    first = seldon_up("worker", path).start()
    with kafka.all_of(ends[1]) as outputs:
        kafka.send_many(ends[0], numbered(800))
        outputs.until(lambda tap: len(tap.seen) >= 50, "first answers")
        first.stop()
        second = seldon_up("worker", path).start()
        all_answered(outputs, 800)
        twice = len(outputs.seen) - len({record.request_id for record in outputs.seen})
        assert not twice, f"{twice} requests ran twice over a stop that was asked for"
    second.stop()


def test_two_workers_share_the_partitions_and_the_death_of_one_loses_nothing(
    seldon_up: SeldonUp, kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", TAKES_10_MS)
    first = seldon_up("worker", path).start()
    second = seldon_up("worker", path).start()
    with kafka.all_of(ends[1]) as outputs:
        kafka.send_many(ends[0], numbered(1000))
        outputs.until(lambda tap: len(tap.seen) >= 100, "first answers")
        first.process.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        all_answered(outputs, 1000)
    second.stop()


def test_a_gateway_and_a_worker_apart_answer_together(seldon_up: SeldonUp, tmp_path: Path) -> None:
    path = write(tmp_path / "first", SAME)
    gateway = seldon_up("gateway").start()
    unknown = infer(gateway.address, "pipelines/numbers", inputs(INPUT=[3]))
    assert unknown.status == 404, unknown
    worker = seldon_up("worker", path).start()
    wait_until(lambda: get(gateway.address, "/v2/pipelines/numbers/ready").status == 200, "ready by the gateway", 20)
    for target in ("pipelines/numbers", "models/number"):
        assert infer(gateway.address, target, inputs(INPUT=[3])).output("OUTPUT") == [3], target
    worker.stop()
    wait_until(
        lambda: get(gateway.address, "/v2/pipelines/numbers/ready").status == 503, "not ready without a worker", 20
    )
    waited = infer(gateway.address, "pipelines/numbers", inputs(INPUT=[3]), [("x-request-timeout-ms", "500")])
    assert waited.status == 504, waited
    gateway.stop()


def test_a_gateways_callers_are_answered_when_it_is_asked_to_stop(
    seldon_up: SeldonUp, kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    slow = "import time\ndef model(INPUT):\n    time.sleep(1.5)\n    return {'OUTPUT': INPUT}\n"
    running = seldon_up("up", write(tmp_path / "first", slow)).start()
    with ThreadPoolExecutor(1) as pool, kafka.tap(ends[0]) as requests:
        answer = pool.submit(infer, running.address, "pipelines/numbers", inputs(INPUT=[3]))
        requests.until(lambda tap: bool(tap.seen), "the request on its way")
        running.stop()
        assert answer.result(30).output("OUTPUT") == [3]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


def test_a_port_in_use_is_told(seldon_up: SeldonUp, taken_port: int, tmp_path: Path) -> None:
    running = seldon_up("up", write(tmp_path / "first", SAME), listen=f"127.0.0.1:{taken_port}").launch()
    assert running.wait() != 0, running.said
    assert str(taken_port) in running.err, running.said
    assert "in use" in running.err, running.said
    assert "Traceback" not in running.err, running.said


def test_a_broker_that_is_not_there_is_told(seldon_up: SeldonUp, tmp_path: Path) -> None:
    running = seldon_up("up", write(tmp_path / "first", SAME), kafka_broker="127.0.0.1:1").launch()
    assert running.wait() == 1, running.said
    assert "no Kafka broker answers at 127.0.0.1:1" in running.err, running.said
    assert "Traceback" not in running.err, running.said


def test_invalid_resources_end_it_before_anything_starts(
    seldon_up: SeldonUp, command: Callable[..., Said], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    path.write_text(
        path.read_text().replace("  steps:\n    - name: number", "  steps:\n    - name: number\n    - naem: x")
    )
    running = seldon_up("up", path).launch()
    assert running.wait() == 2, running.said
    assert f"{path}:" in running.err, running.said
    assert running.out == "", running.said
    loaded = command("load", "-f", path)
    assert loaded.code == 2, loaded
    listed = command("model", "list")
    assert "number" not in listed.out, listed


def test_workers_of_one_command_share_the_requests_and_one_that_dies_is_replaced(
    seldon_up: SeldonUp, kafka: Kafka, ends: tuple[str, str], tmp_path: Path
) -> None:
    says = "import os\ndef model(INPUT):\n    return {'OUTPUT': INPUT, 'PID': [os.getpid()]}\n"
    running = seldon_up("worker", write(tmp_path / "models", says), processes=2).start()
    wait_until(lambda: running.out.count("ready in") == 2, lambda: running.said, 45)

    firsts = itertools.count(0, 200)

    def who_answers() -> set[int]:
        first = next(firsts)
        wanted = {str(number) for number in range(first, first + 200)}
        with kafka.tap(ends[1]) as tap:
            kafka.send_many(ends[0], numbered(200, first))
            tap.until(lambda tap: wanted <= {record.request_id for record in tap.seen}, "answers", READ_DEADLINE)
        return {values(record.response, "PID")[0] for record in tap.seen if record.request_id in wanted}

    def both() -> set[int] | None:
        found = who_answers()
        return found if len(found) == 2 else None

    # Each has its half of the partitions, once the group has settled.
    victim = min(wait_until(both, "answers of both workers", READ_DEADLINE))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: running.out.count("ready in") == 3, lambda: running.said, 45)
    assert victim not in who_answers()
    running.stop()
    assert "SIGKILL; starting it again in 0.5 s" in running.err
