"""`seldon pipeline redrive`: what failed is put back when what failed it has been mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from product import infer, inputs, seldon
from resource_files import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product
    from topics import Kafka

# Fails until somebody makes the file.
MENDABLE = """\
from pathlib import Path


def model(INPUT):
    if INPUT[0] < 0 and not Path({path!r}).exists():
        raise ValueError("no negative numbers yet")
    return {{"OUTPUT": INPUT}}
"""


def test_requests_that_failed_are_answered_once_when_they_are_put_back(
    seldon_up: Callable[..., Product], kafka: Kafka, namespace: str, broker: str, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    product = seldon_up("up", write(tmp_path / "files", MENDABLE.format(path=str(mended)))).start()
    for number in (1, -2, 3, -4):
        answer = infer(product.address, "pipelines/numbers", inputs(INPUT=[number]), [("x-request-id", f"r{number}")])
        assert answer.status == (500 if number < 0 else 200), answer

    def redrive(*arguments: str) -> list[str]:
        found = seldon("pipeline", "redrive", "numbers", *arguments, "--kafka-broker", broker, "--namespace", namespace)
        assert found.code == 0, found
        return found.out.splitlines()

    topic = f"seldon.{namespace}.pipeline.numbers"
    mended.touch()
    assert (
        redrive("--request-id", "r-2", "--dry-run")[-1] == f"1 of 1 failed requests would be put back on {topic}.inputs"
    )
    assert redrive("--request-id", "r-2")[-1] == f"1 of 1 failed requests put back on {topic}.inputs"
    summary = f"1 of 2 failed requests put back on {topic}.inputs; 1 was put back before (--again)"
    lines = redrive("--step", "number", "--since", "1h")
    assert [line.split("\t")[0] for line in lines[:-1]] == ["r-2", "r-4"]
    assert lines[-1] == summary
    assert (
        redrive("--all")[-1] == f"0 of 2 failed requests put back on {topic}.inputs; 2 were put back before (--again)"
    )
    with kafka.all_of(f"{topic}.outputs") as tap:
        for number in (-2, -4):
            failed, answered = tap.of(f"r{number}", 2)
            assert (failed.error_code, answered.error_code) == ("INTERNAL", None)
        assert [len(tap.records_of(f"r{number}")) for number in (1, -2, 3, -4)] == [1, 2, 1, 2]
