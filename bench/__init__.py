"""Measurements of the product against its peers on one real Kafka. `python -m bench` runs them all."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
