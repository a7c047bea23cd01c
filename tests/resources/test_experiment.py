from __future__ import annotations

import pytest

from engine.resources import Candidate, Experiment, Mirror, ResourceType, documents, parse

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Experiment\nmetadata:\n  name: ab\nspec:\n"
CANDIDATES = "  candidates: [{name: a, weight: 50}, {name: b, weight: 50}]\n"


def experiment(spec: str) -> Experiment:
    found, faults = documents(HEAD + spec, "e.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Experiment)
    return resource


def refusals(spec: str) -> list[str]:
    """The headlines of all problems, with lines counted from the first of the spec's fields."""
    found, faults = documents(HEAD + spec, "e.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert resource is None
    return [f"{p.place.line - 5}:{p.place.column}: {p.message}" for p in problems]


def test_every_field_is_read() -> None:
    spec = CANDIDATES + "  default: a\n  mirror: {name: c, percent: 10}\n  resourceType: pipeline\n"
    found, _ = documents(HEAD + spec, "e.yaml")
    assert experiment(spec) == Experiment(
        name="ab",
        default="a",
        candidates=(Candidate("a", 50), Candidate("b", 50)),
        mirror=Mirror("c", 10),
        resource_type=ResourceType.PIPELINE,
        document=found[0],
    )


def test_an_experiment_is_about_models_unless_it_says_otherwise() -> None:
    assert experiment(CANDIDATES).resource_type is ResourceType.MODEL


def test_a_weight_may_be_zero_beside_others() -> None:
    spec = "  candidates: [{name: a, weight: 0}, {name: b, weight: 1}]\n"
    assert experiment(spec).candidates[0] == Candidate("a", 0)


def test_an_experiment_may_be_a_mirror_alone() -> None:
    assert experiment("  mirror: {name: c, percent: 100}\n").mirror == Mirror("c", 100)


def test_a_default_that_is_no_candidate_is_refused() -> None:
    assert refusals(CANDIDATES + "  default: c\n") == [
        '2:12: experiment "ab": default "c" is not one of its candidates'
    ]


@pytest.mark.parametrize("spec", ["  resourceType: model\n", "  candidates:\n", "  candidates: []\n"])
def test_an_experiment_without_candidates_and_mirror_is_refused(spec: str) -> None:
    (refusal,) = refusals(spec)
    assert refusal.endswith('experiment "ab" has neither candidates nor a mirror')


def test_a_repeated_candidate_is_refused() -> None:
    spec = "  candidates: [{name: a, weight: 1}, {name: a, weight: 2}]\n"
    assert refusals(spec) == ['1:45: experiment "ab" has repeated candidate "a"']


def test_a_mirror_that_is_a_candidate_is_refused() -> None:
    assert refusals(CANDIDATES + "  mirror: {name: b, percent: 1}\n") == [
        '2:18: experiment "ab": mirror "b" is a candidate as well'
    ]


def test_weights_that_add_up_to_nothing_are_refused() -> None:
    assert refusals("  candidates: [{name: a, weight: 0}]\n") == [
        '1:15: experiment "ab": the weights of its candidates add up to 0'
    ]


def test_a_candidate_needs_a_weight() -> None:
    spec = "  candidates: [{name: a}, {name: b, weight: 1}]\n"
    assert refusals(spec) == ['1:16: experiment "ab" candidate "a" needs "weight"']


def test_a_negative_weight_is_refused() -> None:
    spec = "  candidates: [{name: a, weight: -1}, {name: b, weight: 1}]\n"
    assert refusals(spec) == ['1:34: experiment "ab" candidate "a": "weight" must be at least 0, not -1']


def test_a_mirror_over_all_calls_is_refused() -> None:
    assert refusals("  mirror: {name: c, percent: 101}\n") == [
        '1:30: experiment "ab" mirror "c": "percent" must be at most 100, not 101'
    ]


def test_an_unknown_resource_type_is_refused() -> None:
    assert refusals(CANDIDATES + "  resourceType: server\n") == [
        '2:17: experiment "ab": "resourceType" must be model or pipeline, not "server"'
    ]


@pytest.mark.parametrize(
    "spec",
    [
        CANDIDATES + "  defaults: a\n",
        "  candidates: [{name: a, weight: 1, percent: 1}]\n",
        "  mirror: {name: c, percent: 1, weight: 1}\n",
    ],
)
def test_unknown_fields_are_refused_at_every_level(spec: str) -> None:
    (refusal,) = refusals(spec)
    assert "has an unknown field" in refusal
