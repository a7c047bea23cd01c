"""Joins by key of what other pipelines give: what meets, when windows end, and what a changelog brings back."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest

from engine.dataflow.external import Source, Upstream
from engine.dataflow.keyed import Arrival, Change, Fired, KeyedJoin
from engine.dataflow.plan import Edge
from engine.errors import NewerFormat
from engine.protocol.record import Owner, Side
from engine.resources import Join

if TYPE_CHECKING:
    from engine.protocol.record import Headers

SUMS, PRODUCTS, RATES = (Source(name, Owner.PIPELINE, name, Side.OUTPUTS) for name in ("sums", "products", "rates"))
A, B, C = 0, 1, 2
WINDOW = 10.0


def edge(source: int, *tensors: str) -> Edge:
    return Edge(source, Side.OUTPUTS, tensors)


def two(join: Join = Join.INNER, triggers: Join | None = None) -> Upstream:
    """Data of two sources, or (with triggers) data of one and a trigger of the other."""
    edges = (edge(A), edge(B))
    if triggers is None:
        return Upstream((SUMS, PRODUCTS), edges, join, window=WINDOW)
    return Upstream((SUMS, PRODUCTS), edges[:1], join, edges[1:], triggers, WINDOW)


def three(join: Join) -> Upstream:
    return Upstream((SUMS, PRODUCTS, RATES), (edge(A), edge(B), edge(C)), join, window=WINDOW)


class Feed:
    """A join and the next offset of each of its sources."""

    def __init__(self, upstream: Upstream, most: int = 100) -> None:
        self.upstream, self.join = upstream, KeyedJoin(upstream, most)
        self.now, self.changes, self.evicted = 0.0, list[Change](), list[bytes]()
        self._offsets = [0, 0, 0]

    def give(
        self, source: int, part: str = "", *, key: bytes = b"k", at: float = 0.0, headers: Headers = ()
    ) -> list[Fired]:
        """One record; its parts are for all edges of the source, empty for triggers."""
        data = len(self.upstream.edges)
        edges = enumerate((*self.upstream.edges, *self.upstream.triggers))
        parts = {place: part.encode() if place < data else b"" for place, edge in edges if edge.source == source}
        self._offsets[source] += 1
        return self.arrive(Arrival(source, self._offsets[source], key, at, headers, parts))

    def arrive(self, arrival: Arrival) -> list[Fired]:
        outcome = self.join.offer([arrival], self.now)
        self.changes += outcome.changes
        self.evicted += [evicted.key for evicted in outcome.evicted]
        return outcome.fired

    def wait(self, seconds: float) -> list[Fired]:
        self.now += seconds
        outcome = self.join.expire(self.now)
        self.changes += outcome.changes
        return outcome.fired

    def again(self, upstream: Upstream | None = None) -> Feed:
        """What another worker has, that reads back the compacted changelog."""
        other = Feed(upstream or self.upstream)
        other.now, other._offsets = self.now, list(self._offsets)
        last = {change.key: number for number, change in enumerate(self.changes)}
        for number in sorted(last.values()):
            change = self.changes[number]
            assert other.join.restore(change.key, change.value, change.position, self.now)
        return other


def parts(fired: list[Fired]) -> list[str]:
    return [b"+".join(request.parts).decode() for request in fired]


def test_records_of_one_key_make_one_request_in_the_order_of_the_references() -> None:
    feed = Feed(two())
    assert feed.give(B, "b") == []
    assert feed.give(A, "a") == [Fired(b"k", (), (b"a", b"b"))]
    assert len(feed.join) == 0


def test_records_of_different_keys_do_not_meet() -> None:
    feed = Feed(two())
    assert feed.give(A, "a", key=b"one") == []
    assert feed.give(B, "b", key=b"two") == []
    assert len(feed.join) == 2


def test_equal_keys_pair_first_with_first_and_second_with_second() -> None:
    feed = Feed(two())
    assert [*feed.give(A, "a1"), *feed.give(A, "a2")] == []
    assert parts([*feed.give(B, "b1"), *feed.give(B, "b2")]) == ["a1+b1", "a2+b2"]
    assert feed.give(B, "b3") == [], "nothing is used twice"


def test_records_as_far_apart_as_the_window_meet() -> None:
    feed = Feed(two())
    feed.give(A, "a", at=100.0)
    assert parts(feed.give(B, "b", at=110.0)) == ["a+b"]


def test_records_farther_apart_than_the_window_do_not_meet() -> None:
    feed = Feed(two())
    feed.give(A, "a", at=100.0)
    assert feed.give(B, "b", at=110.5) == []


def test_a_record_passes_over_an_entry_that_is_too_far_away_in_time() -> None:
    feed = Feed(two())
    feed.give(A, "far", at=150.0)
    feed.give(A, "near", at=100.0)
    assert parts(feed.give(B, "b", at=101.0)) == ["near+b"]


def test_a_record_must_be_near_all_that_came_before() -> None:
    feed = Feed(three(Join.INNER))
    feed.give(A, "a", at=100.0)
    feed.give(B, "b", at=108.0)
    assert feed.give(C, "c", at=92.0) == []


def test_any_goes_with_the_first_and_not_again_with_the_second() -> None:
    feed = Feed(two(Join.ANY))
    assert parts(feed.give(B, "b")) == ["b"]
    assert feed.give(A, "a") == []
    assert len(feed.join) == 0
    assert parts(feed.give(A, "a2")) == ["a2"]


def test_outer_goes_with_all_when_all_are_there() -> None:
    feed = Feed(two(Join.OUTER))
    assert feed.give(B, "b") == []
    assert parts(feed.give(A, "a")) == ["a+b"]


def test_outer_goes_with_what_is_there_when_the_records_of_all_sources_are_past_the_window() -> None:
    feed = Feed(two(Join.OUTER))
    feed.give(A, "a", at=100.0)
    assert feed.give(A, key=b"other", at=150.0) == [], "the other source may still have it"
    assert parts(feed.give(B, key=b"third", at=110.0)) == ["a"]


def test_outer_goes_with_what_is_there_when_the_other_source_has_been_quiet_for_a_window() -> None:
    feed = Feed(two(Join.OUTER))
    feed.give(A, "a")
    assert feed.wait(9.5) == []
    assert parts(feed.wait(0.5)) == ["a"]
    assert feed.wait(100.0) == []


def test_a_source_whose_backlog_is_being_read_is_waited_for() -> None:
    feed = Feed(two(Join.OUTER))
    feed.give(A, "a", at=100.0)
    for second in range(8):
        feed.now += 5.0
        assert feed.give(B, "old", key=b"old", at=float(second)) == []
    assert parts(feed.give(B, "b", at=100.0)) == ["a+b", *["old"] * 8]


def test_what_was_read_late_meets_what_waits_before_the_clock_ends_it() -> None:
    feed = Feed(two(Join.OUTER))
    feed.give(A, "a")
    feed.now += 60.0
    assert parts(feed.give(B, "b")) == ["a+b"]


def test_a_late_side_does_not_make_the_request_again() -> None:
    feed = Feed(two(Join.ANY))
    feed.give(A, "a", at=100.0)
    assert feed.give(B, "b", at=105.0) == []


def test_an_inner_join_whose_partner_never_comes_ends_in_silence() -> None:
    feed = Feed(two())
    feed.give(A, "a")
    assert feed.wait(10.0) == []
    assert len(feed.join) == 0
    assert feed.evicted == []


def test_a_trigger_gates_and_gives_no_data() -> None:
    feed = Feed(two(triggers=Join.INNER))
    assert feed.give(A, "a") == []
    assert parts(feed.give(B)) == ["a"]


def test_any_keeps_to_the_first_while_its_trigger_is_out() -> None:
    upstream = Upstream((SUMS, PRODUCTS, RATES), (edge(A), edge(B)), Join.ANY, (edge(C),), window=WINDOW)
    feed = Feed(upstream)
    feed.give(B, "b", headers=(("x-of", b"b"),))
    feed.give(A, "a", headers=(("x-of", b"a"),))
    assert feed.give(C) == [Fired(b"k", (("x-of", b"b"),), (b"b",))]


def test_a_record_without_what_an_inner_join_wants_uses_up_its_partner() -> None:
    upstream = Upstream((SUMS, PRODUCTS), (edge(A, "x"), edge(A, "y"), edge(B)), window=WINDOW)
    feed = Feed(upstream)
    feed.arrive(Arrival(A, 1, b"k", 0.0, (), {0: b"x"}))
    assert feed.give(B, "b") == []
    assert len(feed.join) == 0


def test_an_outer_join_goes_without_what_a_record_lacks() -> None:
    upstream = Upstream((SUMS, PRODUCTS), (edge(A, "x"), edge(A, "y"), edge(B)), Join.OUTER, window=WINDOW)
    feed = Feed(upstream)
    feed.arrive(Arrival(A, 1, b"k", 0.0, (), {1: b"y"}))
    assert parts(feed.give(B, "b")) == ["y+b"]


def test_headers_are_those_of_the_sources_in_their_order_with_one_request_id() -> None:
    feed = Feed(two())
    feed.give(B, headers=(("x-request-id", b"2"), ("x-all", None), ("x-b", b"b")))
    (fired,) = feed.give(A, headers=(("x-request-id", b"1"), ("x-all", None), ("x-b", b"a")))
    assert fired.headers == (("x-request-id", b"1"), ("x-all", None), ("x-b", b"a"), ("x-b", b"b"))


def test_over_the_bound_the_entry_whose_window_ends_first_is_given_up() -> None:
    feed = Feed(two(), most=2)
    for key, at in ((b"late", 3.0), (b"early", 1.0), (b"last", 2.0)):
        feed.give(A, "a", key=key, at=at)
    assert feed.evicted == [b"early"]
    assert len(feed.join) == 2


def test_over_the_bound_an_outer_join_goes_with_what_it_has() -> None:
    feed = Feed(two(Join.OUTER), most=1)
    feed.give(A, "a1", key=b"one")
    assert parts(feed.give(A, "a2", key=b"two")) == ["a1"]
    assert feed.evicted == []


def test_over_the_bound_what_was_made_a_request_already_is_not_told() -> None:
    feed = Feed(two(Join.ANY), most=1)
    feed.give(A, "a1", key=b"one")
    assert parts(feed.give(A, "a2", key=b"two")) == ["a2"]
    assert feed.evicted == []


def test_a_record_that_was_seen_is_passed_over() -> None:
    feed, arrival = Feed(two()), Arrival(A, 7, b"k", 0.0, (), {A: b"a"})
    feed.arrive(arrival)
    feed.arrive(arrival)
    assert len(feed.join) == 1
    assert len(feed.changes) == 1


def test_nothing_waits_for_the_clock_when_nothing_waits() -> None:
    assert Feed(two()).join.next_expiry() is None


def test_the_next_window_ends_when_the_quiet_source_has_been_quiet_for_one() -> None:
    feed = Feed(two())
    feed.now = 100.0
    feed.give(A, "a", at=50.0)
    assert feed.join.next_expiry() == 110.0
    feed.now = 104.0
    feed.give(B, key=b"old", at=1.0)
    feed.wait(6.0)
    assert feed.join.next_expiry() == 114.0


def test_a_clock_that_is_set_back_only_makes_windows_longer() -> None:
    feed = Feed(two(Join.OUTER))
    feed.now = 1000.0
    feed.give(A, "a1", key=b"one")
    feed.now = 500.0
    feed.give(A, "a2", key=b"two")
    assert feed.join.next_expiry() == 1010.0
    assert parts(feed.wait(510.0)) == ["a1", "a2"]


def test_entries_that_are_gone_leave_nothing_behind() -> None:
    feed = Feed(two())
    for number in range(10_000):
        key = b"%d" % number
        feed.join.offer([Arrival(side, number, key, 0.0, (), {side: b"x"}) for side in (A, B)], 0.0)
    windows = feed.join._windows
    assert len(windows._all) + len(windows._young) + len(windows._aged) < 5000
    assert feed.join._free == [{}, {}]


def test_another_worker_goes_on_with_what_waits() -> None:
    feed = Feed(two())
    feed.give(A, "a", headers=(("x-a", b"\xff"), ("x-none", None)))
    assert feed.again().give(B, "b") == [Fired(b"k", (("x-a", b"\xff"), ("x-none", None)), (b"a", b"b"))]


def test_another_worker_pairs_equal_keys_in_the_same_order() -> None:
    feed = Feed(three(Join.INNER))
    feed.give(A, "a1")
    feed.give(A, "a2")
    feed.give(B, "b1")  # now the change of the first entry stands after that of the second
    other = feed.again()
    assert parts([*other.give(C, "c1"), *other.give(B, "b2"), *other.give(C, "c2")]) == ["a1+b1+c1", "a2+b2+c2"]


def test_another_worker_waits_a_window_by_its_own_clock() -> None:
    feed = Feed(two(Join.OUTER))
    feed.give(A, "a")
    feed.now = 8.0
    other = feed.again()
    assert other.join.next_expiry() == 18.0
    assert parts(other.wait(10.0)) == ["a"]


def test_a_late_side_does_not_make_the_request_again_at_another_worker() -> None:
    feed = Feed(two(Join.ANY))
    feed.give(A, "a")
    assert feed.again().give(B, "b") == []


def test_a_compacted_changelog_still_tells_how_far_every_source_was_read() -> None:
    feed = Feed(two())
    feed.give(A, "a")
    feed.give(B, "b")
    assert [change.value for change in feed.changes[-1:]] == [None]
    other = feed.again()
    assert other.arrive(Arrival(A, 1, b"k", 0.0, (), {A: b"a"})) == []
    assert len(other.join) == 0, "its first change, which told of that record, was compacted away"


def test_the_changelog_keeps_nothing_of_what_was_made_a_request() -> None:
    feed = Feed(two(Join.ANY))
    feed.give(A, "data" * 100, headers=(("x-any", b"value"),))
    (change,) = feed.changes
    assert change.value is not None
    assert b"data" not in change.value
    assert b"x-any" not in change.value


def test_another_version_of_the_pipeline_finds_what_it_still_reads() -> None:
    feed = Feed(two())
    feed.give(A, "a")
    turned = Upstream((RATES, PRODUCTS, SUMS), (edge(A), edge(B), edge(C)), window=WINDOW)
    other = feed.again(turned)
    assert parts([*other.give(B, "b"), *other.give(A, "r")]) == ["r+b+a"]


@pytest.mark.parametrize(
    "upstream",
    [
        Upstream((RATES, PRODUCTS), (edge(A), edge(B))),
        Upstream((SUMS, PRODUCTS), (edge(A, "x"), edge(B))),
        Upstream((SUMS, PRODUCTS), (replace(edge(A), renames=(("x", "y"),)), edge(B))),
        Upstream((PRODUCTS, SUMS), (edge(A),), triggers=(edge(B),)),
    ],
    ids=["another source", "other tensors", "other names", "a trigger now"],
)
def test_another_version_passes_over_what_it_does_not_read(upstream: Upstream) -> None:
    feed, join = Feed(two()), KeyedJoin(upstream, 100)
    feed.give(A, "a")
    (change,) = feed.changes
    assert not join.restore(change.key, change.value, change.position, 0.0)
    assert len(join) == 0


def value(head: object, raw: bytes = b"") -> bytes:
    encoded = orjson.dumps(head)
    return struct.pack(">I", len(encoded)) + encoded + raw


HEAD = {"format": 1, "opened": 0.0, "low": 0.0, "high": 0.0, "closed": False, "sources": {}}
WHOLE = [[], [[["data", [], [], 0], 3]]]


def test_the_format_is_the_one_that_is_documented() -> None:
    join = KeyedJoin(two(), 100)
    position = b'{"sums.outputs":[4,0.0]}'
    assert join.restore(b"12 k", value(HEAD | {"sources": {"sums.outputs": WHOLE}}, b"abc"), position, 0.0)
    outcome = join.offer([Arrival(A, 4, b"k", 0.0, (), {A: b"seen"}), Arrival(B, 0, b"k", 0.0, (), {B: b"b"})], 0.0)
    assert parts(outcome.fired) == ["abc+b"]
    assert outcome.changes == [Change(b"12 k", None, b'{"sums.outputs":[4,0.0],"products.outputs":[0,0.0]}')]


@pytest.mark.parametrize(
    ("key", "written", "position"),
    [
        (None, value(HEAD), None),
        (b"k", value(HEAD), None),
        (b"9" * 5000 + b" k", value(HEAD), None),
        (b"1 k", b"", None),
        (b"1 k", b"\xff\xff\xff\xff{}", None),
        (b"1 k", value([]), None),
        (b"1 k", value(HEAD | {"format": 0}), None),
        (b"1 k", value(HEAD | {"opened": "now"}), None),
        (b"1 k", value(HEAD | {"sources": {"sums.outputs": WHOLE}}, b"ab"), None),
        (b"1 k", value(HEAD | {"sources": {"sums.outputs": WHOLE}}, b"abcd"), None),
        (b"1 k", value(HEAD | {"sources": {"sums.outputs": [[["x", -1]], []]}}), None),
        (b"1 k", value(HEAD | {"sources": {"sums.outputs": []}}), None),
        (b"1 k", None, b"0 sums.outputs"),
        (b"1 k", None, b"[]"),
        (b"1 k", None, b'{"sums.outputs":["1",0.0]}'),
    ],
)
def test_what_is_no_record_of_a_changelog_is_told_and_passed_over(
    key: bytes | None, written: bytes | None, position: bytes | None
) -> None:
    feed = Feed(two())
    assert not feed.join.restore(key, written, position, 0.0)
    assert len(feed.join) == 0
    assert parts([*feed.give(A, "a"), *feed.give(B, "b")]) == ["a+b"]


def test_an_entry_is_read_though_its_position_cannot_be() -> None:
    join = KeyedJoin(two(), 100)
    assert not join.restore(b"1 k", value(HEAD | {"sources": {"sums.outputs": WHOLE}}, b"abc"), b"garbage", 0.0)
    assert len(join) == 1


def test_an_entry_goes_when_its_last_change_cannot_be_read() -> None:
    join = KeyedJoin(two(), 100)
    assert join.restore(b"1 k", value(HEAD | {"sources": {"sums.outputs": WHOLE}}, b"abc"), None, 0.0)
    assert not join.restore(b"1 k", value(HEAD | {"format": 0}), None, 0.0)
    assert len(join) == 0


@pytest.mark.parametrize(
    ("written", "position"),
    [(value({"format": 2}), None), (None, b'{"format": 2, "whatever": "comes"}'), (None, b'{"format": 3}')],
    ids=["an entry", "a position", "a position of more"],
)
def test_what_a_newer_release_wrote_to_a_changelog_is_refused(written: bytes | None, position: bytes | None) -> None:
    with pytest.raises(NewerFormat, match="run the newer release here too"):
        KeyedJoin(two(), 100).restore(b"1 k", written, position, 0.0)
