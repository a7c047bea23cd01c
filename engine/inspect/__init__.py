"""Read what passed each step of a pipeline: its latest records, those of one request, or what comes from now on."""

from engine.inspect.content import Glance, glances, readable, text_of
from engine.inspect.expression import Source, resolve
from engine.inspect.latest import TopicRecords
from engine.inspect.looking import Inspected, follow, inspect

__all__ = [
    "Glance",
    "Inspected",
    "Source",
    "TopicRecords",
    "follow",
    "glances",
    "inspect",
    "readable",
    "resolve",
    "text_of",
]
