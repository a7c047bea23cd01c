"""A dataflow engine for machine-learning inference on Kafka."""

__version__ = "0.1.0"
