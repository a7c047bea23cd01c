from __future__ import annotations

from aiokafka import TopicPartition

from engine.kafka.listing import lags, ours

IN, OUT = "s.n.pipeline.p.inputs", "s.n.pipeline.q.outputs"
SPANS = {TopicPartition(IN, 0): (10, 15), TopicPartition(IN, 1): (0, 4), TopicPartition(OUT, 0): (0, 9)}


def test_a_group_is_behind_by_what_stands_after_its_positions() -> None:
    assert lags(SPANS, {TopicPartition(IN, 0): 12, TopicPartition(IN, 1): 4}, IN) == {IN: 3}


def test_a_group_that_has_no_position_would_begin_at_the_first_record() -> None:
    assert lags(SPANS, {}, IN) == {IN: 9}
    assert lags(SPANS, {TopicPartition(IN, 0): 15}, IN) == {IN: 4}


def test_a_group_is_behind_on_whatever_it_has_read() -> None:
    assert lags(SPANS, {TopicPartition(OUT, 0): 2}, IN) == {IN: 9, OUT: 7}
    assert lags(SPANS, {TopicPartition(OUT, 0): 2}, "") == {OUT: 7}


def test_a_position_before_or_after_what_is_there_counts_what_is_there() -> None:
    assert lags(SPANS, {TopicPartition(IN, 0): 3, TopicPartition(IN, 1): 99}, IN) == {IN: 5}


def test_ours_are_those_of_the_namespace_in_order() -> None:
    there = [
        "s.n.status",
        OUT,
        IN,
        "s.other.pipeline.p.inputs",
        "sn.n.status",
        "s.n.errors.errors",
        "__consumer_offsets",
    ]
    assert ours(there, "s", "n") == ["s.n.errors.errors", IN, OUT, "s.n.status"]


def test_ours_of_all_namespaces_are_those_that_are_named_as_ours_are() -> None:
    there = [IN, "s.m.explainer.e.outputs", "s.m.pipeline.p.joins", "s.sales.orders", "s.m", "s.a.b.model.m.inputs"]
    assert ours(there, "s", None) == ["s.m.explainer.e.outputs", "s.m.pipeline.p.joins", IN]
