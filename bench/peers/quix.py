"""The tfsimples chain as a streaming dataframe of Quix Streams 3, with its protobuf serializers.

BOOTSTRAP=host:port NAMESPACE=name GUARANTEE=at-least-once|exactly-once python -m bench.peers.quix
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from quixstreams import Application
from quixstreams.models.serializers.protobuf import ProtobufDeserializer, ProtobufSerializer

from bench.chain import ChainTopics
from bench.peers.tfsimples import STEPS
from engine.protocol.messages import ModelInferRequest, ModelInferResponse

names = ChainTopics(os.environ["NAMESPACE"])

# Answers are counted when they can be read, exactly once when they are committed: its default of 5 s is long for that.
COMMIT_SECONDS = 1.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=os.environ["BOOTSTRAP"],
            consumer_group=f"{names.namespace}.quix",
            auto_offset_reset="earliest",
            auto_create_topics=False,
            processing_guarantee=os.environ["GUARANTEE"],
            commit_interval=COMMIT_SECONDS,
            state_dir=folder,
            loglevel="ERROR",
        )
        parse = ProtobufDeserializer(msg_type=ModelInferRequest, to_dict=False)
        requests = app.dataframe(app.topic(names.inputs, key_deserializer="bytes", value_deserializer=parse))
        for step, name in zip(STEPS, names.written, strict=True):
            requests = requests.apply(step).to_topic(topic(app, name))
        app.run()


def topic(app: Application, name: str) -> Any:
    """A topic of requests or of answers, as its name says."""
    message = ModelInferRequest if name.endswith(".inputs") else ModelInferResponse
    return app.topic(name, key_serializer="bytes", value_serializer=ProtobufSerializer(msg_type=message))


if __name__ == "__main__":
    main()
