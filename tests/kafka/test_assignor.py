"""The assignor driven as a group's leader drives it, without a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.kafka.assignor import CoPartitionedSticky

if TYPE_CHECKING:
    from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

Shares = dict[str, dict[str, list[int]]]


class Cluster:
    """Marked as such: what the assignor asks of aiokafka's cluster metadata."""

    def __init__(self, **partitions: int) -> None:
        self._partitions = partitions

    def topics(self) -> set[str]:
        return set(self._partitions)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._partitions[topic])) if topic in self._partitions else None


class Member:
    """One consumer: it reports what it had, as aiokafka's coordinator has it do."""

    def __init__(self, *topics: str) -> None:
        self.topics = topics
        self.assignor: Any = type("Own", (CoPartitionedSticky,), {})

    @property
    def metadata(self) -> ConsumerProtocolMemberMetadata:
        return self.assignor.metadata(self.topics)  # type: ignore[no-any-return]


def rebalance(cluster: Cluster, generation: int, **members: Member) -> Shares:
    """One rebalance: everybody's metadata to the leader, and its word back to everybody."""
    given = CoPartitionedSticky.assign(cluster, {name: member.metadata for name, member in members.items()})
    for name, member in members.items():
        member.assignor.on_assignment(given[name])
        member.assignor.on_generation_assignment(generation)
    return {name: dict(assignment.assignment) for name, assignment in given.items()}


def test_a_lone_member_gets_everything() -> None:
    assert rebalance(Cluster(a=2, b=2), 1, m=Member("a", "b")) == {"m": {"a": [0, 1], "b": [0, 1]}}


def test_equal_numbers_of_all_topics_go_to_one_member() -> None:
    shares = rebalance(Cluster(a=8, b=8, c=8), 1, m=Member("a", "b", "c"), n=Member("a", "b", "c"))
    for topics in shares.values():
        assert topics["a"] == topics["b"] == topics["c"]
        assert len(topics["a"]) == 4
    assert sorted(shares["m"]["a"] + shares["n"]["a"]) == list(range(8))


def test_a_member_that_joins_takes_only_its_share_from_the_others() -> None:
    cluster, first, second, third = Cluster(a=9, b=9), Member("a", "b"), Member("a", "b"), Member("a", "b")
    before = rebalance(cluster, 1, m=first, n=second)
    after = rebalance(cluster, 2, m=first, n=second, o=third)
    assert [len(after[name]["b"]) for name in "mno"] == [3, 3, 3]
    for name in "mn":
        assert set(after[name]["a"]) < set(before[name]["a"])


def test_the_others_keep_theirs_when_a_member_leaves() -> None:
    cluster, first, second = Cluster(a=8), Member("a"), Member("a")
    before = rebalance(cluster, 1, m=first, n=second)
    assert rebalance(cluster, 2, n=second)["n"]["a"] == list(range(8))
    third = Member("a")
    after = rebalance(cluster, 3, n=second, o=third)
    assert len(after["n"]["a"]) == len(before["n"]["a"])


def test_a_topic_that_only_some_read_goes_to_them() -> None:
    shares = rebalance(Cluster(a=4, b=4), 1, m=Member("a", "b"), n=Member("a"))
    assert shares["m"]["b"] == [0, 1, 2, 3]
    assert "b" not in shares["n"]


def test_a_topic_that_is_not_there_yet_is_nobodys() -> None:
    assert rebalance(Cluster(a=1), 1, m=Member("a", "b")) == {"m": {"a": [0]}}


def test_members_that_share_no_topic_get_their_own() -> None:
    shares = rebalance(Cluster(a=2, b=2), 1, m=Member("a"), n=Member("b"))
    assert shares == {"m": {"a": [0, 1]}, "n": {"b": [0, 1]}}
