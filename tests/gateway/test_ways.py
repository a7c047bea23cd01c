from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.errors import NoOutput, UnknownResource
from engine.gateway.inference import Target, Way
from engine.gateway.ways import Ways
from engine.protocol.record import Owner
from engine.protocol.routes import ROUTE
from engine.resources import Experiment, documents, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Experiment\nmetadata: {name: ab}\nspec:\n"
MODELS = HEAD + "  default: a\n  candidates: [{name: a, weight: 3}, {name: b, weight: 1}]\n"
MIRRORED = MODELS + "  mirror: {name: c, percent: 50}\n"
PIPELINES = MODELS + "  resourceType: pipeline\n"

A, B, C = (Target(Owner.MODEL, name) for name in "abc")
AB = Target(Owner.EXPERIMENT, "ab")


def ways(text: str, *draws: float, down: Sequence[Target] = ()) -> Ways:
    """Of one experiment, with what is drawn for calls one after the other."""
    experiment, _ = parse(documents(text, "r.yaml")[0][0])
    assert isinstance(experiment, Experiment)
    own = {AB, Target(Owner(experiment.resource_type), experiment.default)}
    return Ways(
        lambda target: experiment if target in own else None,
        lambda target: target not in down,
        iter([*draws, 0.0]).__next__,
    )


def test_what_no_experiment_splits_answers_itself() -> None:
    assert ways(MODELS).of(B, ()) == Way(B)
    assert ways(MODELS).of(Target(Owner.PIPELINE, "a"), ()) == Way(Target(Owner.PIPELINE, "a"))


@pytest.mark.parametrize("target", [A, AB])
def test_calls_of_the_default_and_of_the_experiment_are_split(target: Target) -> None:
    assert [ways(MODELS, draw).of(target, ()).target for draw in (0.0, 0.74, 0.75, 0.99)] == [A, A, B, B]


def test_pipelines_are_split_as_models_are() -> None:
    assert ways(PIPELINES, 0.9).of(AB, ()).target == Target(Owner.PIPELINE, "b")
    assert ways(PIPELINES, 0.9).of(Target(Owner.PIPELINE, "a"), ()).target == Target(Owner.PIPELINE, "b")
    assert ways(PIPELINES, 0.9).of(A, ()).target == A


def test_a_call_that_names_a_route_goes_there_again() -> None:
    assert ways(MODELS, 0.0).of(A, [(ROUTE, b":b_1:")]).target == B
    assert ways(PIPELINES, 0.0).of(AB, [(ROUTE, b":x_1::b.pipeline:")]).target == Target(Owner.PIPELINE, "b")
    assert ways(PIPELINES, 0.0).of(AB, [(ROUTE, b":b_1:")]).target == Target(Owner.PIPELINE, "a")


def test_a_candidate_that_is_down_is_passed_by() -> None:
    assert ways(MODELS, 0.0, down=[A]).of(A, [(ROUTE, b":a_1:")]).target == B


def test_a_mirror_gets_its_share_of_the_calls() -> None:
    found = [ways(MIRRORED, 0.0, draw).of(A, ()) for draw in (0.0, 0.49, 0.5, 0.99)]
    assert found == [Way(A, C, "ab"), Way(A, C, "ab"), Way(A, None, "ab"), Way(A, None, "ab")]


def test_a_mirror_that_is_down_gets_nothing() -> None:
    assert ways(MIRRORED, 0.0, 0.0, down=[C]).of(A, ()) == Way(A, None, "ab")


def test_an_experiment_that_is_not_loaded_is_unknown() -> None:
    with pytest.raises(UnknownResource, match='no experiment "cd" is loaded'):
        ways(MODELS).of(Target(Owner.EXPERIMENT, "cd"), ())


def test_an_experiment_with_a_mirror_alone_answers_nobody() -> None:
    with pytest.raises(NoOutput, match='experiment "ab" has a mirror and no candidates'):
        ways(HEAD + "  mirror: {name: c, percent: 100}\n").of(AB, ())
