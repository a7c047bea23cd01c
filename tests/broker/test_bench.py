"""`seldon bench` against the running product: what it sends arrives, and what it says of it is so."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from product import SAMPLES, SELDON, environment, get, seldon, wait_until
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from product import Product

SOON = 20.0

# A request of a model that takes a second.
LATE = '{"inputs": [{"name": "INPUT", "shape": [1], "datatype": "INT32", "data": [1]}]}'


def called(product: Product, name: str, method: str) -> float:
    """How many calls the gateway has answered, of a pipeline or a model."""
    page = get(product.address, "/metrics").body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name in ("seldon_pipeline_infer_total", "seldon_model_infer_total")
        and name in sample.labels.values()
        and sample.labels["method_type"] == method
    )


@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_a_pipeline_gets_as_many_requests_as_are_told_of(product: Product, mode: str) -> None:
    before = called(product, "tfsimples", mode)
    done = seldon(
        "bench", "tfsimples", "--inference-host", product.address, "--inference-mode", mode, "--rate", 40, "-t", 1
    )
    assert done.code == 0, str(done)
    by = "gRPC" if mode == "grpc" else "REST"
    head, empty, requests, answered, failed, latency, *_ = done.out.splitlines()
    assert head == f"tfsimples.pipeline at {product.address} by {by}, 40/s for 1 s"
    assert (empty, failed) == ("", "failed    0")
    assert requests.startswith("requests  40 in ")
    assert answered.startswith("answered  40, ")
    assert re.fullmatch(r"latency   p50 \S+ m?s   p90 \S+ m?s   p99 \S+ m?s   max \S+ m?s", latency)
    assert called(product, "tfsimples", mode) - before == 40
    assert done.err == ""


def test_the_histogram_holds_every_answer(product: Product) -> None:
    done = seldon("bench", "tfsimple1", "--inference-host", product.address, "--rate", 100, "-t", 0.5)
    bars = [line for line in done.out.splitlines() if line.startswith("  up to ")]
    assert sum(int(line.split()[-1].replace(",", "")) for line in bars) == 50, str(done)


@pytest.mark.parametrize(("mode", "status"), [("rest", "400"), ("grpc", "INVALID_ARGUMENT")])
def test_calls_that_fail_are_told_by_status_and_end_with_1(product: Product, mode: str, status: str) -> None:
    request = '{"inputs": [{"name": "WRONG", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    done = seldon(
        "bench", "tfsimple1", request, "--inference-host", product.address, "--inference-mode", mode, "-t", 0.5
    )
    assert (done.code, done.err) == (1, "Error: 5 of 5 requests failed\n"), str(done)
    assert re.search(rf"^  {status}  5  .*INPUT0", done.out, re.MULTILINE), str(done)


def test_a_request_of_a_file_is_sent(product: Product) -> None:
    endless = SAMPLES / "requests" / "counter-endless.json"
    done = seldon("bench", "counter", "-f", endless, "--inference-host", product.address, "--rate", 3, "-t", 1)
    assert re.search(r"^  422  3  count : step \"count\" was visited 11 times", done.out, re.MULTILINE), str(done)


@pytest.mark.parametrize(("mode", "status"), [("rest", "504"), ("grpc", "DEADLINE_EXCEEDED")])
def test_headers_are_sent(product: Product, mode: str, status: str) -> None:
    done = seldon(
        "bench", "any-late", LATE, "--header", "x-request-timeout-ms=50",
        "--inference-host", product.address, "--inference-mode", mode, "--rate", 3, "-t", 1,
    )  # fmt: skip
    assert re.search(rf"^  {status}  3  ", done.out, re.MULTILINE), str(done)


@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_no_answer_in_time_is_a_failure(product: Product, mode: str) -> None:
    done = seldon(
        "bench", "any-late", LATE, "--request-timeout", 0.05,
        "--inference-host", product.address, "--inference-mode", mode, "--rate", 3, "-t", 1,
    )  # fmt: skip
    assert done.code == 1
    assert re.search(r"^  (no answer|DEADLINE_EXCEEDED)  3  ", done.out, re.MULTILINE), str(done)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nobody"], 'no model "nobody" is loaded; no pipeline "nobody" is loaded'),
        (["nobody.pipeline"], 'no pipeline "nobody" is loaded'),
        (["iris"], '"iris" does not tell what its inputs are; give a request as an argument or by -f'),
        (["iris", "{"], "the request is no JSON"),
        (["iris", "{}", "-f", "/dev/null"], "give the request as an argument or by -f, not both"),
        (["iris", "{}", "--rate", "0"], "0 is no number from 0.001 to 1,000,000"),
        (["iris", "{}", "--seconds", "inf"], "inf is no number from"),
        (["iris", "{}", "--rate", "nan"], "nan is no number from"),
        (["iris", "{}", "--inference-host", "127.0.0.1:1"], "no gateway answers at 127.0.0.1:1"),
    ],
)
def test_nothing_is_sent_to_what_is_not_there_or_not_meant(product: Product, words: list[str], said: str) -> None:
    host = [] if "--inference-host" in words else ["--inference-host", product.address]
    done = seldon("bench", *words, *host)
    assert done.code in (1, 2)
    assert said in done.err
    assert done.out == ""


def test_more_than_may_be_in_flight_is_told_of_as_not_sent(product: Product) -> None:
    done = seldon(
        "bench", "any-late", LATE, "--inference-host", product.address, "--rate", 10, "-t", 1.5, "--max-in-flight", 2
    )
    assert done.code == 1, str(done)
    assert re.search(r"^  not sent +\d+  2 were in flight until the time was over$", done.out, re.MULTILINE), str(done)


def test_ctrl_c_ends_it_with_what_was_sent_until_then(product: Product) -> None:
    before = called(product, "tfsimple1", "rest")
    running = subprocess.Popen(
        [SELDON, "bench", "tfsimple1", "--inference-host", product.address, "--rate", "20", "-t", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        wait_until(lambda: called(product, "tfsimple1", "rest") - before > 5, "requests arrive", SOON)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=SOON)
    finally:
        running.kill()
    assert (running.returncode, err) == (0, "")
    sent = re.search(r"^requests  (\d+) in ", out, re.MULTILINE)
    assert sent is not None, out
    assert called(product, "tfsimple1", "rest") - before == int(sent[1])
