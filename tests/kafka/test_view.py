from __future__ import annotations

import logging
from typing import Any

import orjson
import pytest

from engine.kafka.view import (
    CREATING,
    FAILED,
    FORMAT,
    GATEWAY,
    READY,
    STALE_SECONDS,
    TERMINATED,
    WORKER,
    Instance,
    State,
    View,
    describe,
)

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


# Where the record stands that loads iris; its version before stood at 4.
OFFSET = 7


def view(*states: tuple[str, str, int], alive: float = NOW) -> View:
    """A registry that holds iris at version 2, and what workers say of it."""
    found = View()
    found.resource_record(b"model.iris", envelope(2), OFFSET)
    for instance, state, offset in states:
        say(found, "iris", state, instance, offset)
        beat(found, instance, WORKER, at=alive)
    return found


def say(found: View, model: str, state: str, instance: str = "a", offset: int = 0, at: float = NOW) -> None:
    said = State(("model", model), instance, 2 if offset == OFFSET else 1, state, f"of {instance}", at, None, offset)
    found.status_record(f"model.{model}.{instance}".encode(), said.encode())


def beat(found: View, name: str, *parts: str, seen: int = OFFSET, at: float = NOW, **more: Any) -> None:
    found.status_record(f"instance.{name}".encode(), Instance(name, at, parts, seen, **more).encode())


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


@pytest.mark.parametrize("value", [envelope(3)[:40], b"", b"\xff", envelope(3).replace(b"iris", b"other")])
def test_a_resource_stands_as_it_was_until_its_broken_record_is_replaced(value: bytes) -> None:
    found = view()
    found.resource_record(b"model.iris", value)
    assert (found.resources[KEY].version, found.broken) == (2, {KEY})
    found.resource_record(b"model.iris", envelope(3))
    assert (found.resources[KEY].version, found.broken) == (3, set())


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
        (b"instance.a", b"1000.0"),
        (b"instance.a", b"[]"),
        (b"instance.a", b'{"at": 1000, "format": 1, "release": "1", "parts": 7, "seen": 1, "unread": []}'),
        (
            b"model.iris.a",
            b'{"format": 1, "offset": 7, "version": 2, "state": "", "reason": "", "at": 1, "metadata": 1}',
        ),
    ],
)
def test_a_foreign_status_record_is_passed_over(key: bytes | None, value: bytes) -> None:
    found = view()
    found.status_record(key, value)
    assert (state(found), found.instances) == (None, {})


def test_a_state_carries_what_the_model_says_of_its_tensors() -> None:
    found = view()
    tensors = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    said = {"version": 2, "state": READY, "reason": "", "at": NOW, "metadata": {"name": "iris", "inputs": tensors}}
    found.status_record(b"model.iris.a", orjson.dumps({"format": FORMAT, "offset": OFFSET, **said}))
    beat(found, "a", WORKER)
    told = found.state(KEY, NOW)
    assert told is not None
    assert [(tensor.name, tensor.shape[:]) for tensor in told.metadata.inputs] == [("x", [-1, 4])]


def test_a_resource_of_which_nobody_speaks_has_no_state() -> None:
    assert state(view()) is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("ready",), "ready"),
        (("failed", "ready"), "failed"),
        (("creating", "failed"), "failed"),
        (("creating", "ready"), "ready"),
        (("failed", "failed"), "failed"),
        (("terminated", "ready"), "ready"),
    ],
)
def test_states_of_instances_are_one(states: tuple[str, ...], expected: str) -> None:
    said = [(f"i{number}", text, OFFSET) for number, text in enumerate(states)]
    assert state(view(*said)) == expected


def reason(found: View) -> str | None:
    said = found.state(KEY, NOW)
    return said.reason if said else None


def test_a_failure_on_one_of_several_is_told_with_its_instance() -> None:
    assert reason(view(("a", READY, OFFSET), ("b", FAILED, OFFSET))) == "of b (on instance b alone)"
    assert reason(view(("b", FAILED, OFFSET))) == "of b"


def test_a_version_is_ready_when_no_worker_goes_on_with_an_earlier_one() -> None:
    found = view(("a", READY, 4), ("b", READY, OFFSET))
    assert state(found) == CREATING
    assert reason(found) == "instance a goes on with version 1 until the new one is ready"
    say(found, "iris", READY, "a", OFFSET)
    assert state(found) == READY


def test_calls_are_answered_by_the_version_before_until_the_new_one_is_ready() -> None:
    found = view(("a", READY, 4))
    assert (state(found), found.serves(KEY, NOW)) == (CREATING, True)
    say(found, "iris", FAILED, "a", OFFSET)
    assert (state(found), found.serves(KEY, NOW)) == (FAILED, False)


def test_what_is_unloaded_and_loaded_again_under_its_old_version_is_not_ready_for_its_old_state() -> None:
    found = view(("a", READY, OFFSET))
    found.resource_record(b"model.iris", None, 8)
    found.resource_record(b"model.iris", envelope(2), 9)
    assert state(found) == CREATING


def test_nothing_is_ready_before_every_gateway_has_read_it() -> None:
    found = view(("a", READY, OFFSET))
    beat(found, "g", GATEWAY, seen=OFFSET - 1)
    assert (state(found), reason(found)) == (CREATING, "gateway g cannot route to it yet")
    beat(found, "g", GATEWAY, seen=OFFSET)
    assert state(found) == READY


def test_a_gateway_that_is_dead_is_not_waited_for() -> None:
    found = view(("a", READY, OFFSET))
    beat(found, "g", GATEWAY, seen=0, at=NOW - STALE_SECONDS)
    assert state(found) == READY


def test_those_are_pending_that_have_not_come_to_an_end_with_a_resource() -> None:
    found = view(("a", READY, OFFSET), ("b", CREATING, OFFSET), ("c", FAILED, OFFSET), ("d", READY, 4))
    beat(found, "g", GATEWAY, seen=OFFSET - 1)
    beat(found, "h", GATEWAY)
    beat(found, "new", WORKER)
    assert found.pending(KEY, NOW) == ["b", "d", "g", "new"]


def test_those_are_pending_that_have_not_let_go_of_what_is_unloaded() -> None:
    found = view(("a", READY, OFFSET))
    found.resource_record(b"model.iris", None, 8)
    beat(found, "b", WORKER, seen=8)
    assert found.pending(KEY, NOW) == ["a"]
    beat(found, "a", WORKER, seen=8)
    assert found.pending(KEY, NOW) == ["a"]
    found.status_record(b"model.iris.a", None)
    assert found.pending(KEY, NOW) == []


def test_an_instance_that_goes_takes_all_that_it_said_with_it() -> None:
    found = view(("a", READY, OFFSET), ("b", READY, OFFSET))
    found.status_record(b"instance.a", None)
    assert {key: list(states) for key, states in found.states.items()} == {KEY: ["b"]}
    found.status_record(b"instance.b", None)
    assert (found.states, found.instances) == ({}, {})


def test_an_instance_that_tells_in_another_format_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    found = view()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            beat(found, "x", WORKER, format=FORMAT + 1, release="9.0")
    assert [record.message.split(";")[1] for record in caplog.records] == [" run one release everywhere"]
    found.status_record(b"model.iris.x", b'{"format": 2, "nobody": "knows"}')
    assert (state(found), found.pending(KEY, NOW)) == (None, [])
    assert found.silence(NOW).startswith("instance x of release 9.0 tells its states in format 2, and release")


def test_a_resource_in_another_format_is_left_as_it_was() -> None:
    found = view()
    found.resource_record(b"model.iris", orjson.dumps({"format": FORMAT + 1, "thing": 1}), 8)
    assert (found.resources[KEY].version, found.unread) == (2, {KEY})
    found.resource_record(b"model.iris", envelope(3), 9)
    assert (found.resources[KEY].version, found.unread) == (3, set())


def test_a_resource_that_an_instance_cannot_read_has_failed_there() -> None:
    found = view(("a", READY, OFFSET))
    beat(found, "old", GATEWAY, unread=("model.iris",), release="0.0.1")
    assert (state(found), found.pending(KEY, NOW)) == (FAILED, [])
    assert str(reason(found)).startswith("instance old of release 0.0.1 cannot read it")


def test_an_instance_that_has_been_silent_for_long_says_nothing() -> None:
    assert state(view(("a", READY, OFFSET), alive=NOW - STALE_SECONDS)) is None


def test_an_instance_that_was_silent_for_a_moment_still_counts() -> None:
    assert state(view(("a", READY, OFFSET), alive=NOW - STALE_SECONDS + 1)) == READY


def test_an_instance_that_said_good_bye_says_nothing() -> None:
    found = view(("a", READY, OFFSET))
    found.status_record(b"instance.a", None)
    assert state(found) is None


def test_an_instance_that_forgot_a_resource_says_nothing_of_it() -> None:
    found = view(("a", READY, OFFSET))
    found.status_record(b"model.iris.a", None)
    assert state(found) is None


def test_a_resource_is_described_by_what_its_instances_say() -> None:
    assert describe(view(("a", READY, OFFSET)), ("model", "iris"), NOW) == {
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


def with_experiment(**states: str) -> View:
    """An experiment of the models a and b with the mirror c, of which those that have states are loaded."""
    found = View()
    for model, state in states.items():
        put(found, "Model", model, {"storageUri": "python:a:b"})
        say(found, model, state, at=NOW + len(model))
    beat(found, "a", WORKER)
    candidates = [{"name": name, "weight": 1} for name in ("a", "b")]
    put(found, "Experiment", "ab", {"default": "a", "candidates": candidates, "mirror": {"name": "c", "percent": 5}}, 4)
    return found


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"a": READY, "b": READY, "c": READY}, (READY, "experiment active")),
        ({"a": READY, "b": FAILED, "c": READY}, (FAILED, 'candidate model "b": of a')),
        ({"a": CREATING, "b": FAILED, "c": READY}, (FAILED, 'candidate model "b": of a')),
        ({"a": CREATING, "b": READY, "c": READY}, (CREATING, 'candidate model "a": of a')),
        ({"a": READY, "b": TERMINATED, "c": READY}, (FAILED, 'candidate model "b": of a')),
        ({"a": READY, "b": READY, "c": FAILED}, (FAILED, 'mirror model "c": of a')),
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
