"""A request is found wherever it stands, on logs that are out of order within a bound, without reading all of them."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from engine.kafka.search import FIRST_BLOCK, SLACK, Found, Look, Seen, looks, narrowed, together, unread

T = 1_700_000_000_000
INPUTS, OUTPUTS, STEPS = "in", "out", ("a.in", "a.out")
TOPICS = (INPUTS, *STEPS, OUTPUTS)


@dataclass(frozen=True)
class Written:
    timestamp: int
    request: int


class Logs:
    """NOT a broker: topics of some partitions in memory, which count what is read of them."""

    def __init__(self, chance: random.Random, requests: int, every: int, disorder: int) -> None:
        self.partitions = chance.randint(1, 4)
        self.logs: dict[tuple[str, int], list[Written]] = {
            (topic, number): [] for topic in TOPICS for number in range(self.partitions)
        }
        self.made = [T + number * every for number in range(requests)]
        self.place = [chance.randrange(self.partitions) for _ in range(requests)]
        self.read: set[tuple[str, int, int]] = set()
        # Nothing of a request is written after its answer.
        answered = chance.randint(0, 60_000)
        delays = {INPUTS: 0, OUTPUTS: answered, **{topic: chance.randint(0, answered) for topic in STEPS}}
        for topic, delay in delays.items():
            for number, made in enumerate(self.made):
                self.logs[topic, self.place[number]].append(Written(made + delay + chance.randint(0, disorder), number))
        for log in self.logs.values():
            log.sort(key=lambda record: record.timestamp + chance.randint(0, disorder))

    def search(self, wanted: int, topics: tuple[str, ...], *, made: bool, since: int | None = None) -> set[str]:
        """Do what is asked for, as a broker that finds the first record of a time or later."""
        found: set[tuple[str, int, int]] = set()
        asked = looks(INPUTS, OUTPUTS, topics, made=self.made[wanted] if made else None, since=since)
        look = next(asked, None)
        while look is not None:
            spans = self.spans(look)
            for (topic, number), (low, high) in spans.items():
                self.read |= {(topic, number, at) for at in range(low, high)}
                log = self.logs[topic, number]
                found |= {(topic, number, at) for at in range(low, high) if log[at].request == wanted}
            seen = tuple(
                Found(topic, number, self.logs[topic, number][at].timestamp)
                for topic, number, at in sorted(found)
                if topic in look.topics
            )
            end = all(low == 0 if look.last else high == len(self.logs[place]) for place, (low, high) in spans.items())
            try:
                look = asked.send(Seen(seen, end))
            except StopIteration:
                look = None
        return {topic for topic, _, _ in found if topic in topics}

    def spans(self, look: Look) -> dict[tuple[str, int], tuple[int, int]]:
        found = {}
        for (topic, number), log in self.logs.items():
            if topic in look.topics and (look.partitions is None or number in look.partitions):
                low = 0 if look.since is None else first_at(log, look.since)
                high = len(log) if look.until is None else first_at(log, look.until + SLACK)
                found[topic, number] = (max(0, len(log) - look.last), len(log)) if look.last else (low, max(low, high))
        return found


def first_at(log: list[Written], timestamp: int) -> int:
    return next((at for at, record in enumerate(log) if record.timestamp >= timestamp), len(log))


logs = st.builds(
    Logs,
    st.integers(0, 1 << 32).map(random.Random),
    requests=st.integers(1, 300),
    every=st.sampled_from([1, 100, 10_000]),
    disorder=st.sampled_from([0, 500, SLACK // 2]),
)
which = st.floats(0, 1, exclude_max=True)


@given(here=logs, share=which, topics=st.sampled_from([TOPICS, STEPS, (INPUTS,), (OUTPUTS,)]), made=st.booleans())
def test_every_record_of_a_request_is_found(here: Logs, share: float, topics: tuple[str, ...], *, made: bool) -> None:
    assert here.search(int(share * len(here.made)), topics, made=made) == set(topics)


@given(here=logs, share=which, gone=st.sampled_from([(INPUTS,), (INPUTS, OUTPUTS)]), made=st.booleans())
def test_what_is_left_is_found_when_the_topics_where_it_came_in_are_gone(
    here: Logs, share: float, gone: tuple[str, ...], *, made: bool
) -> None:
    for place in here.logs:
        if place[0] in gone:
            here.logs[place] = []
    assert here.search(int(share * len(here.made)), TOPICS, made=made) == set(TOPICS) - set(gone)


@given(logs, which)
def test_all_since_a_time_is_found_by_any_id(here: Logs, share: float) -> None:
    wanted = int(share * len(here.made))
    assert here.search(wanted, TOPICS, made=False, since=here.made[wanted]) == set(TOPICS)


def test_of_many_records_few_are_read() -> None:
    here = Logs(random.Random(1), requests=20_000, every=100, disorder=100)
    assert here.search(7_000, TOPICS, made=True) == set(TOPICS)
    # Of 80,000: at ten requests a second a few seconds of one topic, and of one partition the time it was under way.
    assert len(here.read) < 4_000


def test_what_came_last_is_found_in_the_last_block() -> None:
    here = Logs(random.Random(2), requests=20_000, every=1, disorder=100)
    assert here.search(19_900, (INPUTS,), made=False) == {INPUTS}
    assert len(here.read) <= FIRST_BLOCK * here.partitions


@given(st.integers(0, 1 << 32), st.integers(0, 200), st.sampled_from([0, 7, 1000]), st.integers(-100, 11_000))
def test_bisection_ends_before_all_of_a_time_in_as_many_looks_as_the_span_has_bits(
    seed: int, records: int, disorder: int, wanted: int
) -> None:
    chance = random.Random(seed)
    offsets = sorted(chance.sample(range(4 * records + 1), records))  # between them markers, and what was compacted
    times = sorted(chance.randint(0, 10_000) for _ in range(records))
    times.sort(key=lambda time: time + chance.randint(0, disorder))
    log = list(zip(offsets, times, strict=True))
    span, looked = (0, 4 * records + 1), 0
    while span[0] < span[1]:
        at = bisect_left(offsets, sum(span) // 2)
        span = narrowed(span, log[at] if at < len(log) else None, wanted)
        looked += 1
    assert all(time < wanted + disorder for offset, time in log if offset < span[0])
    assert all(time >= wanted - disorder for offset, time in log if offset >= span[0])
    assert looked <= (4 * records + 1).bit_length()


spans = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(spans, max_size=6))
def test_nothing_that_is_looked_at_stays_unread(wanted: list[tuple[int, int]]) -> None:
    known: tuple[int, int] | None = None
    read: set[int] = set()
    for span in wanted:
        for low, high in unread(span, known):
            read |= set(range(low, high))
        assert set(range(*span)) <= read
        known = together(span, known)
        assert set(range(*known)) <= read
