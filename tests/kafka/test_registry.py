from __future__ import annotations

import logging
from typing import Any

import orjson
import pytest

from engine.kafka.registry import CREATING, FAILED, READY, STALE_SECONDS, TERMINATED, View, describe

NOW = 1000.0
KEY = ("model", "iris")


def envelope(version: int = 1, **spec: Any) -> bytes:
    resource = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "iris"},
        "spec": {"storageUri": "python:a:b", **spec},
    }
    return orjson.dumps({"resource": resource, "version": version, "folder": "/models"})


def view(*states: tuple[str, str, int], alive: float = NOW) -> View:
    """A registry that holds iris at version 2, and what instances say of it."""
    found = View()
    found.resource_record(b"model.iris", envelope(2))
    for instance, state, version in states:
        said = {"version": version, "state": state, "reason": f"of {instance}", "at": NOW}
        found.status_record(f"model.iris.{instance}".encode(), orjson.dumps(said))
        found.status_record(f"instance.{instance}".encode(), str(alive).encode())
    return found


def state(found: View) -> str | None:
    said = found.state(KEY, NOW)
    return said.state if said else None


def test_a_resource_is_read() -> None:
    loaded = view().resources[KEY]
    assert (loaded.resource.name, loaded.version, loaded.folder) == ("iris", 2, "/models")


def test_a_later_record_replaces_an_earlier() -> None:
    found = view()
    found.resource_record(b"model.iris", envelope(3))
    assert found.resources[KEY].version == 3


def test_a_null_value_takes_a_resource_away() -> None:
    found = view()
    found.resource_record(b"model.iris", None)
    assert found.resources == {}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"no json",
        b"[]",
        b"7",
        b"{}",
        b'{"resource": {}, "version": 1, "folder": ""}',
        b'{"resource": [], "version": 1, "folder": ""}',
        b'{"resource": null, "version": 1, "folder": ""}',
        envelope(nonsense=1),
        orjson.dumps({**orjson.loads(envelope()), "version": "x"}),
    ],
)
def test_a_foreign_resource_record_is_passed_over_and_told(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    found = View()
    with caplog.at_level(logging.WARNING):
        found.resource_record(b"model.iris", value)
    assert found.resources == {}
    assert "passed over" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b"1"),
        (b"", b"1"),
        (b"\xff", b"1"),
        (b"instance.a", b"no number"),
        (b"model.iris", b"1"),
        (b"a.b.c.d", b"1"),
        (b"model.iris.a", b"no json"),
        (b"model.iris.a", b"[]"),
        (b"model.iris.a", b"{}"),
        (b"model.iris.a", b'{"version": 2, "state": "ready", "reason": "", "at": 1, "metadata": {}, "metadata": 1}'),
    ],
)
def test_a_foreign_status_record_is_passed_over(key: bytes | None, value: bytes) -> None:
    found = view()
    found.status_record(key, value)
    assert (state(found), found.heartbeats) == (None, {})


def test_a_state_carries_what_the_model_says_of_its_tensors() -> None:
    found = view()
    tensors = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    said = {"version": 2, "state": READY, "reason": "", "at": NOW, "metadata": {"name": "iris", "inputs": tensors}}
    found.status_record(b"model.iris.a", orjson.dumps(said))
    found.status_record(b"instance.a", str(NOW).encode())
    told = found.state(KEY, NOW)
    assert told is not None
    assert [(tensor.name, tensor.shape[:]) for tensor in told.metadata.inputs] == [("x", [-1, 4])]


def test_a_resource_of_which_nobody_speaks_has_no_state() -> None:
    assert state(view()) is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("ready",), "ready"),
        (("failed", "ready"), "ready"),
        (("creating", "failed"), "creating"),
        (("creating", "ready", "failed"), "ready"),
        (("failed", "failed"), "failed"),
        (("terminated", "failed"), "failed"),
    ],
)
def test_states_of_instances_are_one(states: tuple[str, ...], expected: str) -> None:
    said = [(f"i{number}", text, 2) for number, text in enumerate(states)]
    assert state(view(*said)) == expected


def test_a_state_of_another_version_says_nothing() -> None:
    assert state(view(("a", READY, 1), ("b", FAILED, 2))) == FAILED


def test_an_instance_that_has_been_silent_for_long_says_nothing() -> None:
    assert state(view(("a", READY, 2), alive=NOW - STALE_SECONDS)) is None


def test_an_instance_that_was_silent_for_a_moment_still_counts() -> None:
    assert state(view(("a", READY, 2), alive=NOW - STALE_SECONDS + 1)) == READY


def test_an_instance_that_said_good_bye_says_nothing() -> None:
    found = view(("a", READY, 2))
    found.status_record(b"instance.a", None)
    assert state(found) is None


def test_an_instance_that_forgot_a_resource_says_nothing_of_it() -> None:
    found = view(("a", READY, 2))
    found.status_record(b"model.iris.a", None)
    assert state(found) is None


def test_a_resource_is_described_by_what_its_instances_say() -> None:
    assert describe(view(("a", READY, 2)), ("model", "iris"), NOW) == {
        "name": "iris",
        "version": 2,
        "state": "ready",
        "reason": "of a",
    }


def test_a_resource_that_nobody_took_up_is_unknown() -> None:
    row = describe(view(), ("model", "iris"), NOW)
    assert (row["state"], row["reason"]) == ("unknown", "no worker has taken it up")


def put(found: View, kind: str, name: str, spec: dict[str, Any], version: int = 1) -> None:
    head = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": kind, "metadata": {"name": name}}
    value = orjson.dumps({"resource": {**head, "spec": spec}, "version": version, "folder": ""})
    found.resource_record(f"{kind.lower()}.{name}".encode(), value)


def say(found: View, model: str, state: str, at: float = NOW) -> None:
    said = {"version": 1, "state": state, "reason": f"is {state}", "at": at}
    found.status_record(f"model.{model}.a".encode(), orjson.dumps(said))
    found.status_record(b"instance.a", str(NOW).encode())


def with_experiment(**states: str) -> View:
    """An experiment of the models a and b with the mirror c, of which those that have states are loaded."""
    found = View()
    for model, state in states.items():
        put(found, "Model", model, {"storageUri": "python:a:b"})
        say(found, model, state, at=NOW + len(model))
    candidates = [{"name": name, "weight": 1} for name in ("a", "b")]
    put(found, "Experiment", "ab", {"default": "a", "candidates": candidates, "mirror": {"name": "c", "percent": 5}}, 4)
    return found


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"a": READY, "b": READY, "c": READY}, (READY, "experiment active")),
        ({"a": READY, "b": FAILED, "c": READY}, (FAILED, 'candidate model "b": is failed')),
        ({"a": CREATING, "b": FAILED, "c": READY}, (FAILED, 'candidate model "b": is failed')),
        ({"a": CREATING, "b": READY, "c": READY}, (CREATING, 'candidate model "a": is creating')),
        ({"a": READY, "b": TERMINATED, "c": READY}, (FAILED, 'candidate model "b": is terminated')),
        ({"a": READY, "b": READY, "c": FAILED}, (FAILED, 'mirror model "c": is failed')),
        ({"a": READY, "b": READY}, (FAILED, 'mirror model "c": it is not loaded')),
        ({"a": READY, "c": READY}, (FAILED, 'candidate model "b": it is not loaded')),
    ],
)
def test_an_experiment_is_as_ready_as_those_whom_it_names(states: dict[str, str], expected: tuple[str, str]) -> None:
    said = with_experiment(**states).state(("experiment", "ab"), NOW)
    assert said is not None
    assert (said.state, said.reason, said.version) == (*expected, 4)


def test_an_experiment_of_models_that_nobody_has_taken_up_is_not_ready_yet() -> None:
    found = with_experiment(a=READY, b=READY, c=READY)
    found.states.clear()
    said = found.state(("experiment", "ab"), NOW)
    assert said is not None
    assert (said.state, said.reason) == (CREATING, 'candidate model "a": no worker has taken it up')


def test_the_experiment_that_splits_a_models_calls_is_found_by_the_model() -> None:
    found = with_experiment(a=READY)
    put(found, "Experiment", "none", {"candidates": [{"name": "b", "weight": 1}]})
    assert {key: experiment.name for key, experiment in found.splits.items()} == {("model", "a"): "ab"}


def test_a_later_record_of_an_experiment_holds_at_once() -> None:
    found = with_experiment(a=READY)
    assert found.splits
    put(found, "Experiment", "ab", {"default": "b", "candidates": [{"name": "b", "weight": 7}]}, 2)
    assert list(found.splits) == [("model", "b")]
    found.resource_record(b"experiment.ab", None)
    assert found.splits == {}


def test_of_two_experiments_with_one_default_the_first_by_name_holds() -> None:
    found = with_experiment(a=READY)
    put(found, "Experiment", "aa", {"default": "a", "candidates": [{"name": "a", "weight": 1}]})
    assert found.splits["model", "a"].name == "aa"
    found.resource_record(b"experiment.aa", None)
    assert found.splits["model", "a"].name == "ab"
