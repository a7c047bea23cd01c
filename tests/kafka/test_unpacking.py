"""What a fetch holds, unpacked by ours and by aiokafka's own: the same records, and the same place to read on."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from engine.kafka import unpacking

PLACE = TopicPartition("t", 0)

# Of a batch's header: where its attributes stand, and which of their bits say transaction and marker.
ATTRIBUTES, TRANSACTIONAL, CONTROL = 21, 0x10, 0x20
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
    ours = spared(records(fetched, start, aborted, isolation))
    assert shown(ours) == shown(theirs)


def test_a_batch_that_was_damaged_is_told() -> None:
    data = bytearray(batch(0, -1, "plain", 2, compressed=False))
    data[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        list(spared(records(bytes(data), 0, [], 1, crcs=True)))


def test_a_consumer_is_told_once_and_keeps_what_it_has() -> None:
    consumer = SimpleNamespace(_fetcher=SimpleNamespace(_records={PLACE: "an error"}))
    unpacking.spare(consumer)
    kept = consumer._fetcher._records
    unpacking.spare(consumer)
    assert consumer._fetcher._records is kept
    assert kept == {PLACE: "an error"}
