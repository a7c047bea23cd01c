"""How our consumers unpack what they fetch: cheaper than aiokafka's, and whatever the names of headers are.

Kafka's names of headers are bytes to many clients. aiokafka reads them as UTF-8, and its consumer never gets past a
record where that fails: here they are read with the replacement character in place of what is none.

A consumer's record has its topic, partition and sizes beside what the decoder found; to make one takes 2 of the 3 µs
that reading a record costs, and a request of a two-step chain has three read, two of them only to be passed over.
Consumers that are told to `spare` hand out the decoder's own records.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import aiokafka.consumer.fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of each batch: its base offset, and its length after these.
_PREFIX = struct.Struct(">qi")


def spare(consumer: Any) -> None:
    """From now on a started consumer hands out the decoder's records: offset, timestamp, key, value, headers."""
    fetcher = consumer._fetcher  # noqa: SLF001  its results have no public place
    if not isinstance(fetcher._records, _Results):  # noqa: SLF001  as above
        fetcher._records = _Results(fetcher._records)  # noqa: SLF001  as above


class _Results(OrderedDict[Any, Any]):
    """What a fetcher has fetched, by partition."""

    def __setitem__(self, partition: Any, result: Any) -> None:
        if type(result) is FetchResult:
            records = result._partition_records  # noqa: SLF001  nobody has begun to read them
            records._records_iterator = _unpack(records)  # noqa: SLF001  the one that it has is not begun
        super().__setitem__(partition, result)


def _unpack(records: Any) -> Iterator[Any]:
    """As `PartitionRecords._unpack_records` in all but what it makes of a record."""
    batches = records._records  # noqa: SLF001  what is iterated there too
    while batches.has_next():
        batch = batches.next_batch()
        if records._check_crcs and not batch.validate_crc():  # noqa: SLF001  as there
            raise CorruptRecordException(f"Invalid CRC - {records._tp}")  # noqa: SLF001  as there
        aborted = _is_aborted(records, batch)
        # Markers of transactions are nobody's records, whatever is read.
        if not (aborted or batch.is_control_batch):
            for record in _records_of(batch, records._records):  # noqa: SLF001  as above
                offset = record.offset
                # What lies below was read before: in a compressed batch all records come again.
                if offset >= records.next_fetch_offset:
                    records.next_fetch_offset = offset + 1
                    yield record
        records.next_fetch_offset = batch.next_offset


def _records_of(batch: Any, kept: Any) -> Iterator[Any]:
    try:
        yield from batch
    except UnicodeDecodeError:
        # From its beginning: what was read of it is below the next offset.
        yield from _leniently(kept.data, batch.base_offset)


def _leniently(data: bytes, base: int) -> Any:
    """The batch that begins at this offset, by a decoder to which all names of headers are text."""
    start = 0
    while (found := _PREFIX.unpack_from(data, start))[0] != base:
        start += _PREFIX.size + found[1]
    batch = _DefaultRecordBatchPy(memoryview(data)[start : start + _PREFIX.size + found[1]])
    batch._maybe_uncompress()  # noqa: SLF001  its first step, after which it reads the buffer that it has
    batch._buffer = _Lenient(batch._buffer)  # noqa: SLF001  as above
    return batch


class _Lenient(bytearray):
    """Bytes of which every stretch decodes."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _KeptRecords(MemoryRecords):  # type: ignore[misc]  # the compiled one, where it is
    """What was fetched of a partition, and the bytes of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class _LenientRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """For consumers that nobody told to spare."""

    def _unpack_records(self) -> Iterator[Any]:
        for record in _unpack(self):
            yield self._consumer_record(self._tp, record)


def install() -> None:
    """Have all consumers of the process read whatever names headers have; there is no option for it."""
    aiokafka.consumer.fetcher.MemoryRecords = _KeptRecords
    aiokafka.consumer.fetcher.PartitionRecords = _LenientRecords


def _is_aborted(records: Any, batch: Any) -> bool:
    """Whether a batch is of a transaction that was aborted; notes which ones are, as the reading goes on."""
    if records._isolation_level != READ_COMMITTED or batch.producer_id is None:  # noqa: SLF001  as there
        return False
    producers = records._aborted_producers  # noqa: SLF001  as there
    records._consume_aborted_up_to(batch.base_offset)  # noqa: SLF001  as there
    if batch.is_control_batch and records._contains_abort_marker(batch):  # noqa: SLF001  as there
        producers.discard(batch.producer_id)
    return bool(batch.is_transactional and batch.producer_id in producers)
