"""The tfsimples chain as a Bytewax dataflow: one Kafka sink for all topics, positions in its own recovery store.

BOOTSTRAP=host:port NAMESPACE=name python -m bench.peers.bytewax_flow
"""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from bench.chain import ChainTopics
from bench.peers.tfsimples import STEPS
from engine.protocol.messages import ModelInferRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

BROKERS = [os.environ["BOOTSTRAP"]]
names = ChainTopics(os.environ["NAMESPACE"])

SNAPSHOT = timedelta(seconds=1)


def tfsimples(record: Any) -> Iterator[KafkaSinkMessage]:
    message = ModelInferRequest.FromString(record.value)
    for step, topic in zip(STEPS, names.written, strict=True):
        message = step(message)
        yield KafkaSinkMessage(record.key, message.SerializeToString(), topic, record.headers)


def main() -> None:
    flow = Dataflow("tfsimples")
    records = op.input("inputs", flow, KafkaSource(BROKERS, [names.inputs]))
    op.output("written", op.flat_map("chain", records, tfsimples), KafkaSink(BROKERS, topic=None))
    with tempfile.TemporaryDirectory() as folder:
        init_db_dir(Path(folder), 1)
        cli_main(flow, recovery_config=RecoveryConfig(folder), epoch_interval=SNAPSHOT)


if __name__ == "__main__":
    main()
