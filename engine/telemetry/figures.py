"""What a process counts while it runs: plain numbers, counted for each batch and read when somebody asks.

Everything is kept by the names of steps, resources and statuses, never by what callers send, so that there are only as
many numbers as there are resources. Nothing here is told to anybody: see `exposition`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from engine.protocol.record import ERROR_CODES, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.errors import RequestError
    from engine.telemetry.spans import Spans

# As the reference's histograms of calls have them.
CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# A step of a quick model takes less than a millisecond, a checkpoint some.
STEP_SECONDS = (0.0005, 0.001, 0.0025, *CALL_SECONDS)

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

# The status of an answer, beside those of `ERROR_CODES`.
OK = "OK"

# What a caller can name, and the ways that calls come.
CALLED = (Owner.PIPELINE, Owner.MODEL, Owner.EXPERIMENT)
METHODS = ("rest", "grpc", "kafka")

Resource: TypeAlias = "tuple[Owner, str]"


class Distribution:
    """How often values fell between bounds: `counts[i]` at most `bounds[i]`, the last one above all of them."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """The same value so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Answers(dict[tuple[str, str, str], Distribution]):
    """Seconds that calls took, by the name that was called, by the way that they came, and by their status."""

    def __missing__(self, key: tuple[str, str, str]) -> Distribution:
        found = self[key] = Distribution(CALL_SECONDS)
        return found


class Step:
    """The calls of one step: seconds until each request had its answer, and requests of each call."""

    __slots__ = ("seconds", "sizes")

    def __init__(self) -> None:
        self.seconds, self.sizes = Distribution(STEP_SECONDS), Distribution(SIZES)


class Flow:
    """The requests of one pipeline, or of a model that is called without one.

    taken        since the process has started
    in_flight    of them, those that are not done
    unanswered   those that ended without an answer, by status
    errors       failures by the step that failed and their status
    models       the calls of all flows, by who answered
    spans        who records what each request goes through, if anybody does
    """

    __slots__ = ("errors", "in_flight", "models", "spans", "steps", "taken", "unanswered")

    def __init__(self, models: Answers | None = None, spans: Spans | None = None) -> None:
        self.spans = spans
        self.taken = self.in_flight = 0
        self.steps: dict[str, Step] = {}
        self.errors: dict[tuple[str, str], int] = {}
        self.unanswered: dict[str, int] = {}
        self.models = Answers() if models is None else models

    def step(self, name: str) -> Step:
        """The figures of one step."""
        return self.steps.setdefault(name, Step())

    def failed(self, step: str, error: RequestError, requests: int = 1) -> None:
        """So many requests failed at a step."""
        key = (step, status(error))
        self.errors[key] = self.errors.get(key, 0) + requests

    def ended_unanswered(self, error: RequestError) -> None:
        """A request ended with an error."""
        code = status(error)
        self.unanswered[code] = self.unanswered.get(code, 0) + 1


def status(error: RequestError) -> str:
    """How an error is named on the wire; one of a kind that is a model's own is the model's failure."""
    return ERROR_CODES.get(type(error), "INTERNAL")


@dataclass(frozen=True, slots=True)
class Group:
    """How one consumer group's member here is doing.

    behind    records of each resource's topics that it has not finished; nothing where the broker does not say
    waiting   requests that wait for their partners in the join of pipelines
    """

    checkpoint_seconds: Distribution
    checkpoint_requests: Distribution
    checkpoint_failures: int
    rebalances: int
    behind: Mapping[Resource, int]
    waiting: int | None = None


class Measured(Protocol):
    """A consumer group's member that can be asked how it is doing."""

    async def measure(self) -> Group:
        """How it is doing now; asks the broker, and waits no longer than a scrape may take."""


def everything(_owner: Owner, _name: str) -> bool:
    """Whether a resource is loaded, where nothing is ever unloaded."""
    return True


@dataclass(slots=True)
class Figures:
    """What one process counts.

    known        whether a resource is loaded; figures of others are not kept
    groups       members of consumer groups, by the group
    answers      calls of pipelines, models and experiments, as the gateway's callers met them; those of models,
                 explainers included, that workers made as well
    calls        how many the gateway is answering, by the way that they came
    drawn        calls of experiments, by the experiment and the candidate that got them
    spans        who records what requests go through, if anybody does
    kafka        tells in words what is wrong with the broker; nothing when nothing is
    """

    known: Callable[[Owner, str], bool] = everything
    flows: dict[Resource, Flow] = field(default_factory=dict)
    groups: dict[str, Measured] = field(default_factory=dict)
    answers: dict[Owner, Answers] = field(default_factory=lambda: {owner: Answers() for owner in CALLED})
    calls: dict[str, int] = field(default_factory=lambda: {"rest": 0, "grpc": 0})
    drawn: dict[tuple[str, str], int] = field(default_factory=dict)
    spans: Spans | None = None
    kafka: Callable[[], str] = str
    # Calls of resources that are unloaded by now, and their seconds: sums over all must not fall.
    forgotten: dict[tuple[Owner, str], tuple[int, float]] = field(default_factory=dict)

    def flow(self, owner: Owner, name: str) -> Flow:
        """The requests of a pipeline or a model; those of its next version count on."""
        found = self.flows.get((owner, name))
        if found is None:
            found = self.flows[owner, name] = Flow(self.answers[Owner.MODEL], self.spans)
        return found

    def answered(self, owner: Owner, name: str, method: str, code: str, seconds: float) -> None:
        """The gateway has answered a call. Anybody may call any name: those that are unknown are not kept apart."""
        answers = self.answers[Owner.MODEL if owner is Owner.EXPLAINER else owner]
        answers[name if self.known(owner, name) else "", method, code].observe(seconds)

    def draw(self, experiment: str, candidate: str) -> None:
        """A call of an experiment goes to one of its candidates."""
        key = (experiment, candidate)
        self.drawn[key] = self.drawn.get(key, 0) + 1

    def forget(self) -> None:
        """Drop what belongs to resources that are unloaded."""
        for owner, name in [key for key in self.flows if not self.known(*key)]:
            del self.flows[owner, name]
        for experiment, candidate in [key for key in self.drawn if not self.known(Owner.EXPERIMENT, key[0])]:
            del self.drawn[experiment, candidate]
        for owner, answers in self.answers.items():
            for key in [key for key in answers if key[0] and not self.known(owner, key[0])]:
                gone = answers.pop(key)
                count, seconds = self.forgotten.get((owner, key[1]), (0, 0.0))
                self.forgotten[owner, key[1]] = (count + gone.count, seconds + gone.sum)
