"""How far this process has come with what the registry holds: what is new, and what waits for models. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.dataflow import explaining
from engine.kafka import needs
from engine.resources import Model, Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.kafka.view import Key, Loaded


@dataclass(frozen=True, slots=True)
class Standing:
    """What the registry holds, and what has been taken up of it.

    resources   as the registry holds them
    models      the version of each model that was loaded here last, be it in vain
    """

    resources: Mapping[Key, Loaded]
    models: Mapping[str, Loaded]

    def settled(self, models: Iterable[str]) -> bool:
        """Whether each of these models that is known has been loaded, or could not be."""
        return all(
            self.models.get(name) == self.resources.get(("model", name), self.models.get(name)) for name in models
        )

    def calls_for_model(self, loaded: Loaded, explained: Loaded | None) -> bool:
        """Whether a model is to be loaded; an explainer once what it explains has been.

        explained   of an explainer, the version of the model that it was loaded for
        """
        model = loaded.resource
        name = model.explainer.model_ref if isinstance(model, Model) and model.explainer is not None else ""
        is_new = self.models.get(loaded.key[1]) != loaded
        if not name:
            return is_new
        # Equal, and yet another one, where it was loaded anew from its files.
        return (is_new or explained is not self.models.get(name)) and self.settled([name])

    def calls_for_pipeline(self, loaded: Loaded, running: Loaded, depth: int) -> bool:
        """Whether a pipeline is to take the place of its version that runs, which goes on until the models are there.

        depth   as it was when that was started
        """
        is_new = running != loaded or depth != depth_of(loaded.key[1], self.resources)
        return is_new and self.settled(needs.steps(loaded.resource))


def depth_of(pipeline: str, resources: Mapping[Key, Loaded]) -> int:
    """How many pipelines the requests of one may wait for, one behind the other, as the registry stands."""
    found = [loaded.resource for loaded in resources.values()]
    models = {each.name: each for each in found if isinstance(each, Model)}
    return explaining.depth(pipeline, models, {each.name: each for each in found if isinstance(each, Pipeline)})
