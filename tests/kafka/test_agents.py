from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.kafka import agents
from engine.protocol.record import Owner


def is_for(owner: Owner, *headers: tuple[str, bytes | None]) -> bool:
    execution: Any = SimpleNamespace(owner=owner, name_bytes=b"fraud")
    return agents._is_for(execution, headers)


@pytest.mark.parametrize("headers", [(), (("pipeline", b"fraud"),), (("x-any", b"1"), ("traceparent", None))])
def test_a_record_without_or_with_our_pipelines_name_is_ours(headers: tuple[tuple[str, bytes | None], ...]) -> None:
    assert is_for(Owner.PIPELINE, *headers)


def test_a_record_that_names_another_pipeline_is_passed_over() -> None:
    assert not is_for(Owner.PIPELINE, ("pipeline", b"other"))


def test_a_model_answers_whatever_pipeline_a_record_names() -> None:
    assert is_for(Owner.MODEL, ("pipeline", b"other"))


@pytest.mark.parametrize("owner", [Owner.PIPELINE, Owner.MODEL])
@pytest.mark.parametrize("name", ["seldon-step", "seldon-pipeline-errors"])
def test_what_steps_wrote_and_errors_are_passed_over(owner: Owner, name: str) -> None:
    assert not is_for(owner, ("x-a", b"1"), (name, b"any"))
