"""Who takes a call that an experiment splits, and whether its mirror gets a copy. Randomness is passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from engine.resources.experiment import Experiment

_ALL = 100


def choose(experiment: Experiment, wanted: Container[str], usable: Callable[[str], bool], draw: float) -> str | None:
    """The candidate that takes a call: one that its caller had before, or one drawn by weight.

    Candidates that are not usable leave their shares to the others; where none is, all are drawn from, and whoever
    calls hears what is wrong. One of weight 0 is never chosen, also not again. None when nobody has a weight.

    wanted   what the call's route names
    draw     at least 0 and less than 1, each as likely as any other
    """
    weighted = [candidate for candidate in experiment.candidates if candidate.weight]
    found = [candidate for candidate in weighted if usable(candidate.name)] or weighted
    for candidate in found:
        if candidate.name in wanted:
            return candidate.name
    point = draw * sum(candidate.weight for candidate in found)
    for candidate in found[:-1]:
        point -= candidate.weight
        if point < 0:
            return candidate.name
    return found[-1].name if found else None


def mirror(experiment: Experiment, draw: float) -> str | None:
    """The mirror, if it gets a copy of this call; `draw` as for `choose`."""
    found = experiment.mirror
    return found.name if found is not None and draw * _ALL < found.percent else None
