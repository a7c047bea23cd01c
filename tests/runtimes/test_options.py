from __future__ import annotations

import pytest

from engine.resources import Model, documents, parse
from engine.runtimes import options
from engine.runtimes.options import Options

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {name: m}\nspec:\n  storageUri: python:a:b\n"


def model(**parameters: str) -> Model:
    lines = "".join(f"  - {{name: {name}, value: '{value}'}}\n" for name, value in parameters.items())
    found, faults = documents(f"{HEAD}  parameters:\n{lines}" if parameters else HEAD, "m.yaml")
    assert faults == []
    resource, problems = parse(found[0])
    assert problems == []
    assert isinstance(resource, Model)
    return resource


def refusals(**parameters: str) -> list[str]:
    """Headlines and hints, with lines counted from the first parameter."""
    problems = options.check(model(**parameters))
    return [f"{p.place.line - 6}:{p.place.column}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems]


def test_a_model_without_parameters_is_called_by_four_threads_one_request_each() -> None:
    assert Options.of(model()) == Options(None, 0.0, 0, 4)


def test_options_are_read_from_parameters() -> None:
    written = model(max_batch_size="8", max_batch_delay_ms="2.5", threads="3", other="x")
    assert options.check(written) == []
    assert Options.of(written) == Options(8, 0.0025, 0, 3)
    assert options.others(written) == {"other": "x"}


def test_as_many_calls_are_made_at_once_as_there_are_processes() -> None:
    assert Options.of(model(processes="3")) == Options(None, 0.0, 3, 3)


@pytest.mark.parametrize("name", ["max_batch_size", "threads", "processes"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "²", "9" * 5000])
def test_a_count_that_is_none_is_refused(name: str, value: str) -> None:
    [refusal] = refusals(**{name: value})
    assert refusal.endswith(f'parameter "{name}" is "{value}"; it must be a whole number above 0')


@pytest.mark.parametrize("value", ["-1", "x", "1e3", "1.", "9" * 5000])
def test_a_delay_that_is_none_is_refused(value: str) -> None:
    [refusal] = refusals(max_batch_size="8", max_batch_delay_ms=value)
    assert refusal.endswith(f'parameter "max_batch_delay_ms" is "{value}"; it must be a number of milliseconds')


def test_a_delay_without_stacks_is_refused_at_its_name() -> None:
    assert refusals(max_batch_delay_ms="5") == [
        (
            '1:12: parameter "max_batch_delay_ms" says how long requests wait to be stacked, and nothing says that '
            'they are (add the parameter "max_batch_size")'
        )
    ]


def test_threads_and_processes_do_not_go_together() -> None:
    assert refusals(threads="2", processes="2") == [
        '2:12: parameters "processes" and "threads" do not go together: a process makes one call at once'
    ]
