"""Batches of steps on real brokers: callers share a call, and a crash loses none of those who wait."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from product import infer, inputs, message, values
from resource_files import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product
    from topics import Kafka

    SeldonUp = Callable[..., Product]

# What comes in, and how many rows came with it.
ROWS = "import numpy as np\ndef model(INPUT):\n    return {'OUTPUT': INPUT, 'ROWS': np.full_like(INPUT, len(INPUT))}\n"


@pytest.fixture
def batched(tmp_path: Path) -> Callable[[str], Path]:
    """A pipeline of one step with this batch."""

    def make(batch: str) -> Path:
        path = write(tmp_path / "batched", ROWS)
        text = path.read_text().replace("    - name: number\n", f"    - name: number\n      batch: {batch}\n")
        path.write_text(text)
        return path

    return make


def test_callers_share_a_call_and_each_gets_its_own_rows(seldon_up: SeldonUp, batched: Callable[[str], Path]) -> None:
    running = seldon_up("up", batched("{size: 2, windowMs: 60000}")).start()
    with ThreadPoolExecutor(2) as callers:
        asked = [[1, 2], [3, 4]]
        answers = list(callers.map(lambda rows: infer(running.address, "pipelines/numbers", inputs(INPUT=rows)), asked))
    assert [answer.output("OUTPUT") for answer in answers] == asked
    assert [answer.output("ROWS") for answer in answers] == [[2, 2], [2, 2]]
    running.stop()


def test_requests_that_wait_in_a_batch_outlive_a_kill(
    seldon_up: SeldonUp, kafka: Kafka, namespace: str, batched: Callable[[str], Path]
) -> None:
    path = batched("{size: 6, windowMs: 60000}")
    topic = f"seldon.{namespace}.pipeline.numbers"
    step = f"seldon.{namespace}.model.number.inputs"
    first = seldon_up("worker", path, partitions=1).start()
    with kafka.all_of(f"{topic}.outputs") as outputs:
        records = [
            (message(INPUT=[number]).SerializeToString(), None, [("x-request-id", str(number).encode())])
            for number in range(6)
        ]
        kafka.send_many(f"{topic}.inputs", records[:5])
        first.process.send_signal(signal.SIGKILL)
        first.wait()
        second = seldon_up("worker", path, partitions=1).start()
        kafka.send_many(f"{topic}.inputs", records[5:])
        outputs.until(lambda tap: len(tap.seen) >= 6, "all answers", 40)
    assert {record.request_id: values(record.response, "OUTPUT") for record in outputs.seen} == {
        str(number): [number] for number in range(6)
    }
    assert {tuple(values(record.response, "ROWS")) for record in outputs.seen} == {(6,)}
    with kafka.all_of(step) as given:
        assert len(given.until(lambda tap: len(tap.seen) >= 6, "what the step was given")) == 6
    second.stop()
