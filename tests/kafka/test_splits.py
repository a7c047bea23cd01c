from __future__ import annotations

from typing import Any

import orjson

from engine.calls import Way
from engine.kafka.splits import Splits
from engine.kafka.view import View
from engine.protocol.routes import ROUTE

AB = {"default": "a", "candidates": [{"name": "a", "weight": 3}, {"name": "b", "weight": 1}]}


def put(view: View, kind: str, name: str, spec: dict[str, Any], version: int = 1) -> None:
    head = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": kind, "metadata": {"name": name}}
    envelope = {"resource": {**head, "spec": spec}, "version": version, "folder": ""}
    view.resource_record(f"{kind.lower()}.{name}".encode(), orjson.dumps(envelope))


def splits(*draws: float, spec: dict[str, Any] = AB, running: str = "abc") -> tuple[Splits, View]:
    """Of models a, b and c at version 2, and an experiment of them, with what is drawn one after the other."""
    view = View()
    for model in "abc":
        put(view, "Model", model, {"storageUri": "python:a:b"}, 2)
    put(view, "Experiment", "ab", spec)
    return Splits(view, running.__contains__, iter(draws).__next__), view


def way(name: str) -> Way:
    return Way(name, ((ROUTE, f":{name}_2:".encode()),))


def test_calls_of_the_default_are_split_by_weight() -> None:
    found, _ = splits(0.74, 0.75)
    assert found.is_split("a")
    assert [found.way("a", ()), found.way("a", ())] == [way("a"), way("b")]


def test_who_gets_a_call_of_an_experiment_is_heard_of() -> None:
    _, view = splits()
    drawn: list[tuple[str, str]] = []
    found = Splits(view, "abc".__contains__, iter([0.0, 0.9, 0.0]).__next__, lambda *pair: drawn.append(pair))
    for model in ("a", "a", "b"):
        found.way(model, ())
    assert drawn == [("ab", "a"), ("ab", "b")]


def test_calls_of_another_model_are_not() -> None:
    found, _ = splits()
    assert not found.is_split("b")
    assert found.way("b", ()) == Way("b")
    assert (found.mirror("b"), found.route("b"), found.route("a")) == (None, b":b_2:", None)


def test_a_route_is_taken_again() -> None:
    found, _ = splits(0.0)
    assert found.way("a", [("x-a", None), (ROUTE, b":b_1:")]) == way("b")


def test_a_model_that_does_not_run_here_is_passed_by() -> None:
    found, _ = splits(0.0, 0.0, running="b")
    assert found.way("a", [(ROUTE, b":a_2:")]) == way("b")


def test_a_mirror_gets_its_share_of_the_calls() -> None:
    spec = {**AB, "mirror": {"name": "c", "percent": 50}}
    found, _ = splits(0.49, 0.5, spec=spec)
    assert [found.mirror("a"), found.mirror("a")] == [way("c"), None]
    assert splits(0.0, spec=spec, running="ab")[0].mirror("a") is None


def test_an_edited_experiment_holds_from_the_next_call_on() -> None:
    found, view = splits(0.0, 0.0)
    assert found.way("a", ()) == way("a")
    put(view, "Experiment", "ab", {**AB, "candidates": [{"name": "a", "weight": 0}, {"name": "b", "weight": 1}]}, 2)
    assert found.way("a", ()) == way("b")
    view.resource_record(b"experiment.ab", None)
    assert not found.is_split("a")
