"""Every exception of the engine.

EngineError
├── InvalidSettings      a setting that cannot hold, found before anything starts
├── InvalidResources     YAML files with faults; carries all of them
├── BrokerUnavailable    no broker answers, or it answers something that cannot be worked with
│   ├── BrokerReplaced   another cluster answers at the address now: topics, groups and resources are gone
│   ├── TopicRefused     the broker does not make or delete a topic as it was asked to
│   └── UnequalPartitions  a topic has another number of partitions than its namespace
├── NothingLoaded        nothing was ever loaded in a namespace
├── NewerFormat          a newer release wrote state of a pipeline in a way that is not known here
├── RuntimeUnavailable   a model cannot be loaded: missing artefact, missing extra, server that refuses
└── RequestError         one request that cannot be answered
    ├── InvalidInput     the request is malformed, or a tensor is refused by the model
    ├── UnknownResource  no such model or pipeline
    ├── NoOutput         a synchronous call to a pipeline that has no output section
    ├── NoAnswer         the request ended without an answer: the branch to the output was not taken
    ├── TooManyVisits    a step of a cycle would run more often than maxStepRevisits allows
    ├── TooLarge         a request or an answer over the size limit
    ├── Overloaded       too many requests in flight
    ├── ModelFailed      the model raised, or answered something that is no answer
    ├── Unreachable      the model is not loaded, or its server or the broker is out of reach
    └── TimedOut         no answer before the deadline
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class EngineError(Exception):
    """Anything this product raises on purpose."""


class InvalidSettings(EngineError):
    """A setting that cannot hold; the message names it, its value and what would do."""


class InvalidResources(EngineError):
    """Resource files with faults: `problems` holds every one of them, ready to print."""

    def __init__(self, problems: Sequence[object]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class BrokerUnavailable(EngineError):
    """No broker answers at the address, or what answers cannot be worked with."""


class BrokerReplaced(BrokerUnavailable):
    """Another cluster answers at the address: an embedded broker was started anew, say, with nothing in it."""


class TopicRefused(BrokerUnavailable):
    """The broker does not make or delete a topic as it was asked to; asking again would not help."""


class UnequalPartitions(BrokerUnavailable):
    """A topic has another number of partitions than its namespace: requests would not find their partners."""


class NothingLoaded(EngineError):
    """Nothing was ever loaded in a namespace, which may be misspelt; the message says where something is."""


class NewerFormat(EngineError):
    """A newer release wrote state of a pipeline: what was made of it here would lose requests or run them twice."""

    def __init__(self, what: str, written: int, known: int) -> None:
        super().__init__(
            f"{what} are written by a newer release, in format {written}, and this one reads none above {known}; "
            "run the newer release here too"
        )


class RuntimeUnavailable(EngineError):
    """A model cannot be loaded; the message names the model and what to do."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f'model "{model}": {reason}')
        self.model, self.reason = model, reason


class RequestError(EngineError):
    """One request that cannot be answered; `step` names where, when it was inside a pipeline.

    headers   what a gateway tells the caller beside the error
    """

    def __init__(self, text: str, *, step: str | None = None) -> None:
        super().__init__(text)
        self.text, self.step = text, step
        self.headers: tuple[tuple[str, bytes | None], ...] = ()

    def at(self, step: str) -> RequestError:
        """The same error, placed at a step unless it already names one."""
        return self if self.step else type(self)(self.text, step=step)


class InvalidInput(RequestError):
    """The request is malformed, or the model refuses a tensor of it.

    A Python model raises it to say that the request is at fault and not the model.
    """


class UnknownResource(RequestError):
    """No model or pipeline of that name is loaded."""


class NoOutput(RequestError):
    """The pipeline has no output section, so nothing could ever answer a caller who waits."""


class NoAnswer(RequestError):
    """The request ran to its end and nothing reached the pipeline's output."""


class TooManyVisits(RequestError):
    """A step of a cycle would have run more often for this request than maxStepRevisits allows."""


class TooLarge(RequestError):
    """A request or an answer is over the size limit."""


class Overloaded(RequestError):
    """So many requests are in flight that this one was not taken."""


class ModelFailed(RequestError):
    """The model raised, or what it gave back is no answer."""


class Unreachable(RequestError):
    """The model is not loaded, or its server or the broker cannot be reached: it may be there a little later."""


class TimedOut(RequestError):
    """No answer came before the caller's deadline."""
