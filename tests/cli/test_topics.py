"""How `seldon topics list` tells what it has found; what it finds is in tests/broker/test_topics_kept.py."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from engine.cli import main, topics
from engine.kafka import listing
from engine.kafka.listing import Standing

FOUND = [
    Standing("s.n.pipeline.p.inputs", "n", 8, 1, 12, 2_500_000, {"s.n.pipeline.p": 3}),
    Standing("s.n.status", "n", 1, 1, 4, None, {}),
]
TABLE = """\
topic                \tpartitions\trecords\tsize  \tlag
-----                \t----------\t-------\t----  \t---
s.n.pipeline.p.inputs\t8         \t12     \t2.5 MB\tpipeline.p 3
s.n.status           \t1         \t4      \t-     \t-
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of the broker, which answers with two topics."""
    found: dict[str, Any] = {}

    async def standings(settings: Any, *, all_namespaces: bool) -> list[Standing]:
        found.update(namespace=settings.namespace, all_namespaces=all_namespaces)
        return FOUND

    monkeypatch.setattr(listing, "standings", standings)
    return found


def test_a_table_tells_sizes_and_who_is_how_far_behind(asked: dict[str, Any]) -> None:
    done = CliRunner().invoke(main, ["topics", "list", "--topic-prefix", "s", "--namespace", "n"])
    assert (done.exit_code, done.stdout) == (0, TABLE), done.output
    assert asked == {"namespace": "n", "all_namespaces": False}


def test_json_tells_numbers_and_whole_names_of_groups(asked: dict[str, Any]) -> None:
    done = CliRunner().invoke(main, ["topics", "list", "-A", "-o", "json"])
    assert done.stdout == (
        '[{"topic": "s.n.pipeline.p.inputs", "namespace": "n", "partitions": 8, "replicas": 1, "records": 12, '
        '"bytes": 2500000, "lag": {"s.n.pipeline.p": 3}}, {"topic": "s.n.status", "namespace": "n", "partitions": 1, '
        '"replicas": 1, "records": 4, "bytes": null, "lag": {}}]\n'
    )
    assert asked["all_namespaces"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (10**6, "1.0 MB"), (5 * 10**14, "500.0 TB")]
)
def test_sizes_are_told_in_the_unit_that_fits(count: int, text: str) -> None:
    assert topics.size(count) == text
