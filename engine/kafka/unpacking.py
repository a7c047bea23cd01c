"""Records as aiokafka's decoder makes them, without the objects of Python that its consumer puts around each.

A consumer's record has its topic, partition and sizes beside what the decoder found; to make one takes 2 of the 3 µs
that reading a record costs, and a request of a two-step chain has three read, two of them only to be passed over.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult
from aiokafka.errors import CorruptRecordException

if TYPE_CHECKING:
    from collections.abc import Iterator


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
            for record in batch:
                offset = record.offset
                # What lies below was read before: in a compressed batch all records come again.
                if offset >= records.next_fetch_offset:
                    records.next_fetch_offset = offset + 1
                    yield record
        records.next_fetch_offset = batch.next_offset


def _is_aborted(records: Any, batch: Any) -> bool:
    """Whether a batch is of a transaction that was aborted; notes which ones are, as the reading goes on."""
    if records._isolation_level != READ_COMMITTED or batch.producer_id is None:  # noqa: SLF001  as there
        return False
    producers = records._aborted_producers  # noqa: SLF001  as there
    records._consume_aborted_up_to(batch.base_offset)  # noqa: SLF001  as there
    if batch.is_control_batch and records._contains_abort_marker(batch):  # noqa: SLF001  as there
        producers.discard(batch.producer_id)
    return bool(batch.is_transactional and batch.producer_id in producers)
