"""How experiments split the calls of pipelines' steps, and of models that are called through Kafka, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.calls import Way
from engine.protocol import routes
from engine.protocol.record import Owner
from engine.resources import splitting

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.kafka.view import View
    from engine.protocol.record import HeaderPairs
    from engine.resources import Experiment


class Splits:
    """Looks into the registry for each call, so that an edited experiment holds from the next one on.

    usable   whether this process has a model of that name, and it does not fail
    random   a number of at least 0 and less than 1
    drawn    hears which candidate of an experiment gets a call
    """

    def __init__(
        self,
        view: View,
        usable: Callable[[str], bool],
        random: Callable[[], float],
        drawn: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._view, self._usable, self._random, self._drawn = view, usable, random, drawn

    def way(self, model: str, headers: HeaderPairs) -> Way:
        """Who answers a call of a model with these headers, and the header that says so."""
        experiment = self._experiment(model)
        if experiment is None:
            return Way(model)
        wanted = routes.named(headers, Owner.MODEL)
        name = splitting.choose(experiment, wanted, self._usable, self._random())
        if name is not None:
            self._drawn(experiment.name, name)
        return Way(name or model, ((routes.ROUTE, self._value(name or model)),))

    def is_split(self, model: str) -> bool:
        """Whether the calls of a model go more than one way, or to a mirror besides."""
        return self._experiment(model) is not None

    def mirror(self, model: str) -> Way | None:
        """Who gets a copy of this call of a model."""
        experiment = self._experiment(model)
        name = splitting.mirror(experiment, self._random()) if experiment is not None else None
        if name is None or not self._usable(name):
            return None
        return Way(name, ((routes.ROUTE, self._value(name)),))

    def route(self, model: str) -> bytes | None:
        """What tells that a model answered; None where an experiment splits its calls, whose ways tell it."""
        return None if self.is_split(model) else self._value(model)

    def _experiment(self, model: str) -> Experiment | None:
        return self._view.splits.get(("model", model))

    def _value(self, model: str) -> bytes:
        loaded = self._view.resources.get(("model", model))
        return routes.of(Owner.MODEL, model, loaded.version if loaded is not None else 0)
