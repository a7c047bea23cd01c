"""More calls and records than can be worked off; the long form, of a minute, is in tests/faults."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import overload_load as load
import pytest
from product import message

if TYPE_CHECKING:
    from collections.abc import Callable

    from product import Product
    from topics import Headers, Kafka

SECONDS = 8.0
RECORDS = int(2 * load.CAPACITY * SECONDS)


@pytest.mark.timeout(180)
def test_calls_beyond_what_can_be_answered_are_refused_at_once_while_records_wait(
    seldon_up: Callable[..., Product], kafka: Kafka, namespace: str
) -> None:
    product = seldon_up("up", load.OVERLOADED, settings=load.SETTINGS).start()
    inputs, outputs = (f"seldon.{namespace}.pipeline.fed.{side}" for side in ("inputs", "outputs"))
    with kafka.tap(outputs) as tap:
        calling = load.Calling(product.address, SECONDS)
        records: list[tuple[bytes | None, bytes | None, Headers]] = [
            (message(INPUT=[number]).SerializeToString(), None, [("x-request-id", b"%d" % number)])
            for number in range(RECORDS)
        ]
        kafka.send_many(inputs, records)
        for calls in calling.ends().values():
            load.check(calls)
        found = tap.until(lambda found: len(found.seen) >= RECORDS, "an answer for each record", 90)
    assert Counter(record.request_id for record in found) == Counter(map(str, range(RECORDS)))
    product.stop()
