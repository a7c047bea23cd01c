"""`seldon top` against the running product: it shows what the test does, and outlives the product."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from product import SELDON, environment, infer, inputs, seldon, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from product import Product

    SeldonUp = Callable[..., Product]

SOON = 30.0


class Top:
    """The command while it runs, and the lines that it has printed."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [SELDON, "top", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def row(self, name: str) -> dict[str, str]:
        """What was last printed of a pipeline, a step or a model; nothing before that."""
        heads = [index for index, line in enumerate(self.lines) if line.startswith("kind")]
        for line in reversed(self.lines):
            cells = [cell.strip() for cell in line.split("\t")]
            if heads and cells[1:2] == [name]:
                return dict(zip((each.strip() for each in self.lines[heads[0]].split("\t")), cells, strict=True))
        return {}

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join(SOON)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def top(*arguments: object) -> Iterator[Top]:
    running = Top(*arguments)
    try:
        yield running
    finally:
        running.stop()


def test_what_is_called_is_what_is_shown(product: Product) -> None:
    with top(product.address, "--interval", 0.5) as shown:

        def called() -> bool:
            infer(product.address, "pipelines/tfsimples", inputs(INPUT0=[1, 2], INPUT1=[3, 4]))
            return shown.row("tfsimples").get("requests/s", "0") != "0"

        wait_until(called, lambda: "\n".join(shown.lines), SOON)
        row, step = shown.row("tfsimples"), shown.row("tfsimples/tfsimple1")
    assert (row["kind"], step["kind"]) == ("pipeline", "step")
    assert "ms" in row["p50"] + row["p99"]
    assert row["failed/s"] == "0"
    assert float(row["requests/s"]) > 0
    assert step["lag"] == step["in flight"] == "-"


def test_once_prints_one_interval(product: Product) -> None:
    done = seldon("top", product.address, "--once", "--interval", 0.2)
    assert (done.code, done.err) == (0, "")
    head, titles, _, *rows = done.out.splitlines()
    assert "calls " in head
    assert "broker up" in head
    assert titles.split()[:3] == ["kind", "name", "requests/s"]
    assert {"after-sums", "tfsimples"} <= {row.split("\t")[1].strip() for row in rows}
    assert "\x1b" not in done.out


def test_a_product_that_goes_away_and_comes_back_is_told_of(seldon_up: SeldonUp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    first = seldon_up("gateway", listen=address).start()
    with top(address, "--interval", 0.2) as shown:
        wait_until(lambda: any("calls " in line for line in shown.lines), lambda: "\n".join(shown.lines), SOON)
        first.kill()
        told = f"{address} has been away since "
        wait_until(lambda: any(told in line for line in shown.lines), lambda: "\n".join(shown.lines), SOON)
        gone = len(shown.lines)
        seldon_up("gateway", listen=address).start()
        wait_until(lambda: any("calls " in line for line in shown.lines[gone:]), lambda: "\n".join(shown.lines), SOON)
        assert shown.process.poll() is None


def test_nothing_at_the_address_is_an_error_that_says_so() -> None:
    done = seldon("top", "127.0.0.1:1")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "Error: no figures at 127.0.0.1:1: Connection refused; "
        "name a gateway, or a worker that has SELDON_METRICS_LISTEN\n"
    )


def test_a_broker_is_no_gateway(broker: str) -> None:
    done = seldon("top", broker)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"Error: no figures at {broker}: ")


def test_what_is_no_address_is_wrong_input() -> None:
    done = seldon("top", "localhost")
    assert (done.code, done.out) == (2, "")
    assert done.err == 'Error: HOST:PORT is "localhost"; write HOST:PORT, for example 127.0.0.1:9000\n'
