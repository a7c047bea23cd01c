from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import routes
from engine.protocol.record import Owner, legal_name

NAMES = st.from_regex(r"[a-z0-9]([-_a-z0-9]{0,20}[a-z0-9])?", fullmatch=True).filter(legal_name)


@given(st.lists(st.tuples(NAMES, st.integers(1, 10**6))))
def test_what_was_told_is_named_again(told: list[tuple[str, int]]) -> None:
    headers = [(routes.ROUTE, routes.of(Owner.MODEL, name, version)) for name, version in told]
    assert routes.named(headers, Owner.MODEL) == {name for name, _ in told}
    assert routes.named(headers, Owner.PIPELINE) == frozenset()


@given(st.lists(NAMES))
def test_pipelines_are_named_apart_from_models(names: list[str]) -> None:
    headers = [(routes.ROUTE, routes.of(Owner.PIPELINE, name, 1)) for name in names]
    assert routes.named(headers, Owner.PIPELINE) == set(names)
    assert routes.named(headers, Owner.MODEL) == frozenset()


@pytest.mark.parametrize(
    "values",
    [
        (b":a_1:", b":b_2:"),
        (b":a_1::b_2:",),
        (b":a_1:, :b_2:",),
        (b":a_1:,:b_2:", b":c.pipeline:"),
    ],
)
def test_values_may_be_joined_in_any_way(values: tuple[bytes, ...]) -> None:
    assert routes.named([(routes.ROUTE, value) for value in values], Owner.MODEL) == {"a", "b"}


@pytest.mark.parametrize("value", [b"", b":", b"::", b"a_1", b":a:", b":a_:", b":_1:", b":a_x:", b"\xff\x00"])
def test_what_is_no_route_names_nobody(value: bytes) -> None:
    assert routes.named([(routes.ROUTE, value), (routes.ROUTE, None)], Owner.MODEL) == frozenset()


def test_routes_are_told_once_and_parted_from_other_headers() -> None:
    headers = [("x-a", b"1"), (routes.ROUTE, b":a_1:"), (routes.ROUTE, b":a_1:"), ("x-b", None)]
    assert routes.only(headers) == ((routes.ROUTE, b":a_1:"),)
    assert routes.without(headers) == (("x-a", b"1"), ("x-b", None))
