"""What a fetch holds, unpacked by ours and by aiokafka's own: the same records, and the same place to read on."""

from __future__ import annotations

import gzip
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from engine.kafka import unpacking

# aiokafka's own, which ours replaces in its fetcher.
PartitionRecords, MemoryRecords = unpacking.PartitionRecords, unpacking.MemoryRecords
unpacking.install()

PLACE = TopicPartition("t", 0)

# Of a batch's header: its length, where its attributes stand, and which of their bits say transaction and marker.
HEADER, ATTRIBUTES, TRANSACTIONAL, CONTROL = 61, 21, 0x10, 0x20
ABORT, COMMIT = b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"
GZIP = 1

# Each by a producer, of a kind, with so many records, compressed or not.
BATCHES = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["plain", "transactional", "abort", "commit"]),
        st.integers(1, 4),
        st.booleans(),
    ),
    max_size=8,
)


def batch(base: int, producer: int, kind: str, count: int, *, compressed: bool) -> bytes:
    marker = kind in ("abort", "commit")
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=GZIP if compressed and not marker else 0,
        is_transactional=kind != "plain",
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 20,
    )
    for number in range(1 if marker else count):
        key = (ABORT if kind == "abort" else COMMIT) if marker else b"k%d" % number
        builder.append(
            number, 1000 + number, key, b"v%d" % (base + number), [("x-n", b"%d" % number), ("x-none", None)]
        )
    data = bytearray(builder.build())
    data[0:8] = struct.pack(">q", base)
    if marker:
        data[ATTRIBUTES : ATTRIBUTES + 2] = struct.pack(">h", TRANSACTIONAL | CONTROL)
    return bytes(data)


def records(data: bytes, start: int, aborted: list[tuple[int, int]], isolation: int, *, crcs: bool = False) -> Any:
    return PartitionRecords(PLACE, MemoryRecords(data), aborted, start, None, None, crcs, isolation)


def ours(data: bytes, start: int, aborted: list[tuple[int, int]], isolation: int, *, crcs: bool = False) -> Any:
    """As aiokafka's fetcher makes them now."""
    kept = fetcher.MemoryRecords(data)
    return fetcher.PartitionRecords(PLACE, kept, aborted, start, None, None, crcs, isolation)


def spared(found: Any) -> Any:
    """The same records as a consumer holds them that was told to spare."""
    consumer = SimpleNamespace(_fetcher=SimpleNamespace(_records={}))
    unpacking.spare(consumer)
    result = FetchResult(PLACE, assignment=None, partition_records=found, backoff=0)
    consumer._fetcher._records[PLACE] = result
    return found


def shown(found: Any) -> list[Any]:
    """All records, and after each where reading would go on."""
    seen = [
        (record.offset, record.timestamp, record.key, record.value, tuple(record.headers), found.next_fetch_offset)
        for record in found
    ]
    return [*seen, found.next_fetch_offset]


@given(batches=BATCHES, start=st.integers(0, 6), isolation=st.sampled_from([0, 1]), data=st.data())
def test_the_same_records_come_as_from_aiokafkas_own(
    batches: list[tuple[int, str, int, bool]], start: int, isolation: int, data: st.DataObject
) -> None:
    base, parts, aborted = 0, [], []
    for producer, kind, count, compressed in batches:
        parts.append(batch(base, producer, kind, count, compressed=compressed))
        if kind == "transactional" and data.draw(st.booleans()):
            aborted.append((producer, base))
        base += 1 if kind in ("abort", "commit") else count
    fetched = b"".join(parts)
    theirs = records(fetched, start, aborted, isolation)
    expected = shown(theirs)
    assert shown(spared(ours(fetched, start, aborted, isolation))) == expected
    assert shown(ours(fetched, start, aborted, isolation)) == expected


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("start", [0, 3, 4])
def test_a_name_of_a_header_that_is_no_text_is_read_with_marks_in_its_place(start: int, *, compressed: bool) -> None:
    odd = with_odd_name(4, compressed=compressed)
    fetched = batch(0, -1, "plain", 2, compressed=False) + odd + batch(6, -1, "plain", 1, compressed=False)
    with pytest.raises(UnicodeDecodeError):
        list(records(fetched, start, [], 1))
    for found in (spared(ours(fetched, start, [], 1, crcs=True)), ours(fetched, start, [], 1, crcs=True)):
        headers = {record.offset: [name for name, _ in record.headers] for record in found}
        assert headers == {
            at: ["\ufffd-\ufffd" if at == 5 else "x-n", "x-none"] for at in (0, 1, 4, 5, 6) if at >= start
        }
        assert found.next_fetch_offset == 7


def with_odd_name(base: int, *, compressed: bool) -> bytes:
    """A batch of two records: a name in the second is no text."""
    plain = bytearray(batch(base, -1, "plain", 2, compressed=False))
    at = plain.rindex(b"x-n\x02")
    plain[at : at + 3] = b"\xff-\xfe"
    if compressed:
        plain[HEADER:] = gzip.compress(bytes(plain[HEADER:]))
        plain[ATTRIBUTES : ATTRIBUTES + 2] = struct.pack(">h", GZIP)
        plain[8:12] = struct.pack(">i", len(plain) - 12)
    plain[17:21] = struct.pack(">I", calc_crc32c(bytes(plain[ATTRIBUTES:])))
    return bytes(plain)


def test_a_batch_that_was_damaged_is_told() -> None:
    data = bytearray(batch(0, -1, "plain", 2, compressed=False))
    data[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        list(spared(ours(bytes(data), 0, [], 1, crcs=True)))


def test_a_consumer_is_told_once_and_keeps_what_it_has() -> None:
    consumer = SimpleNamespace(_fetcher=SimpleNamespace(_records={PLACE: "an error"}))
    unpacking.spare(consumer)
    kept = consumer._fetcher._records
    unpacking.spare(consumer)
    assert consumer._fetcher._records is kept
    assert kept == {PLACE: "an error"}
