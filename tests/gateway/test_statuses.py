from __future__ import annotations

import pytest

from engine import errors
from engine.gateway import statuses
from engine.protocol.record import ERROR_CODES


def test_each_error_has_the_statuses_of_the_design(failure: tuple[errors.RequestError, int, object]) -> None:
    error, http, grpc = failure
    assert statuses.status_of(error) == (http, grpc)


def test_every_request_error_has_statuses() -> None:
    assert set(statuses.STATUSES) == set(errors.RequestError.__subclasses__())


def test_kafka_and_grpc_name_errors_alike() -> None:
    assert {kind: status.grpc.name for kind, status in statuses.STATUSES.items()} == ERROR_CODES


def test_a_narrower_error_has_the_statuses_of_its_kind() -> None:
    class Narrower(errors.NoAnswer):
        pass

    assert statuses.status_of(Narrower("x")).http == 422
    assert statuses.status_of(errors.RequestError("x")) == statuses.INTERNAL


def test_the_text_begins_with_the_step() -> None:
    assert statuses.text_of(errors.ModelFailed("it broke", step="score")) == "score : it broke"
    assert statuses.text_of(errors.ModelFailed("it broke")) == "it broke"


@pytest.mark.parametrize("character", ["a", "é", "€"])
def test_a_long_text_is_cut_to_fit_into_trailers(character: str) -> None:
    text = statuses.grpc_text(character * 10_000)
    assert len(text.encode()) <= 2051
    assert text == character * (len(text) - 1) + "…"


def test_a_short_text_is_left_as_it_is() -> None:
    assert statuses.grpc_text("é") == "é"
