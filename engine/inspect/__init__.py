"""Read what passed each step of a pipeline: its latest records, those of one request, or what comes from now on."""

from engine.inspect.content import Glance, glances, message_of, readable, tensors_of, text_of
from engine.inspect.expression import Source, resolve
from engine.inspect.latest import TopicRecords
from engine.inspect.looking import Inspected, follow, from_now, inspect

__all__ = [
    "Glance",
    "Inspected",
    "Source",
    "TopicRecords",
    "follow",
    "from_now",
    "glances",
    "inspect",
    "message_of",
    "readable",
    "resolve",
    "tensors_of",
    "text_of",
]
