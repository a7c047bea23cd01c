from __future__ import annotations

from engine.kafka.differences import told
from engine.resources import TopicOptions


def test_a_topic_that_is_as_it_is_asked_for_is_not_told_of() -> None:
    assert not list(
        told({"t": TopicOptions(5, "lz4", 3)}, {"t": 3}, {"t": {"retention.ms": "5", "compression.type": "lz4"}})
    )


def test_what_nobody_has_asked_for_may_be_anything() -> None:
    assert not list(told({"t": TopicOptions(5)}, {"t": 3}, {"t": {"retention.ms": "5", "compression.type": "gzip"}}))


def test_what_a_broker_does_not_tell_is_not_told_of() -> None:
    assert not list(told({"t": TopicOptions(5, "", 3)}, {}, {}))


def test_a_difference_is_told_with_both_values_and_what_changes_it() -> None:
    retention, replicas = told({"t": TopicOptions(5, "", 3)}, {"t": 1}, {"t": {"retention.ms": "7"}})
    assert retention == (
        "topic t has retention.ms=7, and 5 is asked for; what exists is left as it is: change it by kafka-configs.sh, "
        "or delete it to have it made anew"
    )
    assert replicas.startswith("topic t has replication.factor=1, and 3 is asked for")
    assert "kafka-reassign-partitions.sh" in replicas


def test_topics_that_differ_in_the_same_way_share_a_line() -> None:
    names = ["a", "b", "c", "d", "e"]
    [line] = told(dict.fromkeys(names, TopicOptions(5)), {}, {name: {"retention.ms": "7"} for name in names})
    assert line.startswith("topics a, b, c and 2 more have retention.ms=7, and 5 is asked for")
