"""How far a partition is finished; tests/properties/test_watermark.py has it taken over in any state."""

from __future__ import annotations

import pytest

from engine.errors import NewerFormat
from engine.kafka.watermark import MOST_SPANS, Standing, Watermark


def test_a_watermark_begins_where_it_is_told() -> None:
    assert (Watermark(7).offset, Watermark(7).idle) == (7, True)


def test_a_watermark_stands_at_the_first_unfinished() -> None:
    mark = Watermark(0)
    mark.take([0, 1, 2], 3)
    mark.finish([1])
    assert (mark.offset, mark.idle) == (0, False)


def test_a_watermark_moves_over_all_that_is_finished() -> None:
    mark = Watermark(0)
    mark.take([0, 1, 2], 3)
    mark.finish([1])
    mark.finish([0])
    assert mark.offset == 2


def test_a_watermark_with_nothing_left_stands_at_what_is_read_next() -> None:
    mark = Watermark(0)
    mark.take([0, 4], 9)
    mark.finish([4])
    mark.finish([0])
    assert (mark.offset, mark.idle) == (9, True)


def test_offsets_that_are_nobodys_move_the_watermark() -> None:
    mark = Watermark(0)
    mark.take([], 5)
    assert mark.offset == 5


def test_a_finished_watermark_keeps_nothing() -> None:
    mark = Watermark(0)
    mark.take(range(100), 100)
    for offset in reversed(range(100)):
        mark.finish([offset])
    assert not mark._open
    assert not mark._taken


def test_what_is_finished_above_a_slow_request_stands_in_spans() -> None:
    mark = Watermark(10)
    mark.take(range(10, 20), 20)
    mark.finish([11, 12, 15])
    assert (mark.offset, mark.spans()) == (10, (1, 2, 2, 1))


def test_a_successor_passes_over_what_was_finished() -> None:
    mark = Watermark(10, (1, 2, 2, 1))
    assert [offset for offset in range(10, 18) if not mark.done(offset)] == [10, 13, 14, 16, 17]


def test_a_successor_that_has_read_nothing_says_what_its_predecessor_said() -> None:
    assert Watermark(10, (1, 2, 2, 1)).spans() == (1, 2, 2, 1)


def test_what_has_no_room_in_the_metadata_stays_unfinished() -> None:
    mark = Watermark(0)
    mark.take(range(20_000), 20_000)
    refused = mark.finish(list(range(1, 20_000, 2)))
    spans = mark.spans()
    assert refused
    assert len(Standing("x" * 12, spans, 1 << 60).encode()) <= 4096
    assert mark.crowded
    assert mark.finish([]) == []
    assert all(offset > sum(spans) - 1 for offset in refused)
    assert mark.finish([*range(0, 20_000, 2), *refused]) == []
    assert (mark.offset, mark.spans(), mark.crowded) == (20_000, (), False)


@pytest.mark.parametrize(
    "text", [None, "", "a note of somebody's", "1;me", "1;me;0;!", "1;me;x;AAAA", "1;me;0;gA", "0;me;0;AQE", "7"]
)
def test_what_others_wrote_beside_an_offset_says_nothing(text: str | None) -> None:
    assert Standing.parse(text) == Standing()


def test_what_a_newer_release_wrote_beside_an_offset_is_refused() -> None:
    with pytest.raises(NewerFormat, match="format 2, and this one reads none above 1"):
        Standing.parse("2;me;and;whatever;comes")


def test_a_standing_is_read_as_it_was_written() -> None:
    standing = Standing("0123456789ab", (1, 300, 70_000, 2), 0xFEED)
    assert Standing.parse(standing.encode()) == standing
    assert len(standing.encode()) < MOST_SPANS


@pytest.mark.parametrize(
    ("found", "follows"),
    [
        (Standing("me", (), 7), True),
        (Standing("me", (1, 1), 8), True),
        (Standing("me", (), 6), False),
        (Standing("another", (), 1), True),
        (Standing(), True),
    ],
)
def test_what_stands_beside_an_offset_tells_whether_a_checkpoint_is_still_to_come(
    found: Standing, *, follows: bool
) -> None:
    assert found.follows(Standing("me", (), 7)) is follows


def test_what_an_earlier_owner_left_takes_room_too() -> None:
    # A stretch of unfinished ones before a metadata that is full: each that ends alone splits the stretch.
    left, read = 195, 150
    dead = Watermark(0)
    dead.take(range(4000), 4000)
    dead.finish(list(range(left, 4000, 2)))
    mark = Watermark(dead.offset, dead.spans())
    mark.take(range(read), read)
    mark.finish(list(range(1, read, 2)))
    assert len(Standing("x" * 12, mark.spans(), 1 << 60).encode()) <= 4096
