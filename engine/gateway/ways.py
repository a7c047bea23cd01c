"""Which way a call goes where an experiment splits the calls of what it is for. Randomness is passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import NoOutput, UnknownResource
from engine.gateway.inference import Target, Way
from engine.protocol import routes
from engine.protocol.record import Owner
from engine.resources import splitting

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.protocol.record import HeaderPairs
    from engine.resources import Experiment


class Ways:
    """Finds the way of each call.

    experiment   the experiment that a target is, or that splits its calls; None when there is none
    usable       whether a target is there and does not fail
    random       a number of at least 0 and less than 1
    """

    def __init__(
        self,
        experiment: Callable[[Target], Experiment | None],
        usable: Callable[[Target], bool],
        random: Callable[[], float],
    ) -> None:
        self._experiment, self._usable, self._random = experiment, usable, random

    def of(self, target: Target, headers: HeaderPairs) -> Way:
        """The way of a call with these headers; one that names a route goes there again.

        Raises UnknownResource for an experiment that is not loaded, NoOutput for one that has nobody to answer.
        """
        experiment = self._experiment(target)
        if experiment is None:
            if target.owner is Owner.EXPERIMENT:
                raise UnknownResource(f'no experiment "{target.name}" is loaded')
            return Way(target)
        owner = Owner(experiment.resource_type)
        wanted = routes.named(headers, owner)
        name = splitting.choose(experiment, wanted, lambda name: self._usable(Target(owner, name)), self._random())
        if name is None:
            raise NoOutput(
                f'experiment "{experiment.name}" has a mirror and no candidates, so nobody answers its calls'
            )
        mirror = splitting.mirror(experiment, self._random())
        copied = Target(owner, mirror) if mirror is not None else None
        usable = copied if copied is not None and self._usable(copied) else None
        return Way(Target(owner, name), usable, experiment.name)
