"""`seldon up` with no broker named: it brings its own."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from product import Product, infer, inputs, seldon, wait_until
from resource_files import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

import pytest

SAME = "def model(INPUT):\n    return {'OUTPUT': INPUT}\n"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Product]:
    path = write(tmp_path / "first", SAME)
    product = Product(tmp_path / "process", "up", path, "--kafka-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0")
    yield product.start()
    product.kill()


def test_up_starts_a_broker_and_says_that_its_data_goes_with_it(running: Product) -> None:
    assert "in memory" in running.out, running.said
    assert infer(running.address, "pipelines/numbers", inputs(INPUT=[1])).output("OUTPUT") == [1]
    listed = seldon("pipeline", "list", "--kafka-broker", running.broker)
    assert "PipelineReady" in listed.out, listed
    running.stop()
    gone = seldon("pipeline", "list", "--kafka-broker", running.broker)
    assert (gone.code, f"no Kafka broker answers at {running.broker}" in gone.err) == (1, True), gone


def test_the_death_of_its_broker_ends_it_with_the_reason(running: Product) -> None:
    children = [int(line) for line in _children(running.process.pid)]
    assert len(children) == 1, f"one child, the broker: {children}"
    os.kill(children[0], signal.SIGKILL)
    assert running.wait() == 1, running.said
    assert "broker" in running.err, running.said
    assert "Traceback" not in running.err, running.said


def test_the_broker_dies_with_a_product_that_is_killed(running: Product) -> None:
    (child,) = map(int, _children(running.process.pid))
    running.kill()
    wait_until(lambda: not _alive(child), f"the end of process {child}, the broker", 5)


def _children(pid: int) -> list[str]:
    from pathlib import Path

    return [pid_ for task in Path(f"/proc/{pid}/task").iterdir() for pid_ in (task / "children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    from pathlib import Path

    return " Z " not in Path(f"/proc/{pid}/stat").read_text()
