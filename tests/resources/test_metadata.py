from __future__ import annotations

import pytest

from engine.resources import Metadata, Problem, Resource, documents, parse


def parsed(metadata: str) -> tuple[Resource | None, list[Problem]]:
    text = f"apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {metadata}\nspec: {{storageUri: m}}\n"
    found, faults = documents(text, "m.yaml")
    assert faults == []
    return parse(found[0])


def messages(metadata: str) -> list[str]:
    resource, problems = parsed(metadata)
    assert resource is None
    return [problem.message for problem in problems]


def test_namespace_labels_annotations_and_generation_are_kept() -> None:
    resource, problems = parsed("{name: m, namespace: ml, labels: {b: x, a: y}, annotations: {c: d}, generation: 4}")
    assert problems == []
    assert resource
    assert resource.metadata == Metadata("ml", (("a", "y"), ("b", "x")), (("c", "d"),), 4)


def test_what_kubectl_prints_is_accepted() -> None:
    _, problems = parsed(
        "{name: m, uid: u, resourceVersion: '1', creationTimestamp: '2024-01-01T00:00:00Z', selfLink: s,"
        " finalizers: [f], ownerReferences: [{kind: K}], managedFields: [{manager: kubectl}]}"
    )
    assert problems == []


def test_an_unknown_field_is_refused() -> None:
    assert messages("{name: m, label: {}}") == ['the model has an unknown field "label"']


def test_a_label_that_is_no_text_is_refused() -> None:
    assert messages("{name: m, labels: {a: 1}}") == ['the model: "a" in "labels" must be a text, not 1']


@pytest.mark.parametrize("metadata", ["{}", '{name: ""}', "{name: ' '}", "{name: ~}"])
def test_a_resource_needs_a_name(metadata: str) -> None:
    assert messages(metadata) == ['the model needs "name"']


def test_a_name_that_is_no_text_is_refused_once() -> None:
    assert messages("{name: 5}") == ['the model: "name" must be a text, not 5']


@pytest.mark.parametrize("name", ["Iris", "a.b", "-a", "a-", "a/b", "a" * 64])
def test_a_name_that_no_topic_can_have_is_refused(name: str) -> None:
    assert messages(f"{{name: {name}}}") == [f'the model does not have a valid name: "{name}"']


def test_a_refused_name_comes_with_the_rule() -> None:
    _, (problem,) = parsed("{name: Iris}")
    assert problem.hint == (
        'use lower-case letters, digits, "-" and "_", at most 63, with a letter or digit at both ends'
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("\u0430lpha", '"\u0430" is CYRILLIC SMALL LETTER A; '),
        ("\uff41", '"\uff41" is FULLWIDTH LATIN SMALL LETTER A; '),
        ("a\u200bb", '"\\u200b" is ZERO WIDTH SPACE; '),
    ],
)
def test_a_letter_that_only_looks_like_one_is_called_by_its_name(name: str, told: str) -> None:
    _, (problem,) = parsed(f"{{name: {name}}}")
    assert problem.hint.startswith(told)


@pytest.mark.parametrize("metadata", ["", "~"])
def test_metadata_must_be_there(metadata: str) -> None:
    assert messages(metadata) == ['the model needs "metadata" with a "name"']


def test_metadata_must_be_a_mapping() -> None:
    assert messages("[m]") == ['the model: "metadata" must be a mapping, not a list']
