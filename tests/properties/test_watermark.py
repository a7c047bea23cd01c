"""What a successor runs again is what was not finished, whatever order requests finished in, and nothing else."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kafka import watermark
from engine.kafka.watermark import MOST_SPANS, Standing, Watermark


class Owner:
    """A worker with one partition: takes what its predecessors did not finish, and finishes it in any order."""

    def __init__(self, committed: int, metadata: str) -> None:
        self.watermark = Watermark(committed, Standing.parse(metadata).spans)
        self.next, self.running = committed, set[int]()

    def read(self, count: int, ours: set[int]) -> None:
        wanted = [at for at in range(self.next, self.next + count) if at in ours and not self.watermark.done(at)]
        self.next += count
        self.watermark.take(wanted, self.next)
        self.running |= set(wanted)

    def finish(self, chance: random.Random, most: int) -> set[int]:
        ending = chance.sample(sorted(self.running), min(most, len(self.running)))
        accepted = set(ending) - set(self.watermark.finish(ending))
        self.running -= accepted
        return accepted


@given(
    st.integers(0, 1 << 32),
    st.lists(st.sampled_from(["read", "finish", "crash"]), max_size=60),
    st.sampled_from([MOST_SPANS, 40, 8]),
)
@settings(max_examples=600, deadline=None)
def test_everything_is_finished_once(seed: int, steps: list[str], room: int) -> None:
    chance = random.Random(seed)
    ours = {at for at in range(2000) if chance.random() < 0.8}  # the others are step records and control records
    finished: list[int] = []
    committed, metadata = 0, ""
    owner = Owner(0, "")
    for step in steps:
        with_room = watermark.MOST_SPANS
        watermark.MOST_SPANS, watermark._SURELY_FIT = room, room // 20  # type: ignore[misc]
        try:
            if step == "read":
                owner.read(chance.randrange(1, 20), ours)
            elif step == "finish":
                finished += owner.finish(chance, chance.randrange(1, 12))
            else:
                owner = Owner(committed, metadata)
            committed = owner.watermark.offset
            spans = owner.watermark.spans()
            metadata = Standing("me", spans).encode()
        finally:
            watermark.MOST_SPANS, watermark._SURELY_FIT = with_room, with_room // 20  # type: ignore[misc]
        assert len(metadata) <= room + len("1;me;0;")
        assert Standing.parse(metadata) == Standing("me", spans)
        again = Watermark(committed, spans)
        told = {at for at in ours if at < committed or again.done(at)}
        assert told == set(finished)
    assert len(finished) == len(set(finished))


@given(st.text())
def test_a_metadata_of_others_says_nothing(text: str) -> None:
    standing = Standing.parse(text)
    assert all(length >= 0 for length in standing.spans)
    assert len(standing.spans) % 2 == 0
