"""How answers are counted by their routes, and how a route is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.cli.doors import Reply
from engine.cli.routes import Counts, Session

if TYPE_CHECKING:
    from pathlib import Path


def test_counts_are_printed_in_the_order_of_their_routes() -> None:
    counts = Counts()
    for route in ("b", "a", "b"):
        counts.count(Reply([("X-Seldon-Route", f":{route}:")], [], ""))
    assert counts.lines() == ["Success: map[:a::1 :b::2]"]


def test_each_that_a_route_names_is_counted() -> None:
    counts = Counts()
    pairs = [("x-seldon-route", ":add10_1:"), ("x-seldon-route", ":tens.pipeline:")]
    for code in (0, 500, 500):
        counts.count(Reply(pairs, [], "", code))
    assert counts.lines() == [
        "Success: map[:add10_1::1 :tens.pipeline::1]",
        "Errors: map[:add10_1::map[500:2] :tens.pipeline::map[500:2]]",
    ]
    assert counts.failed == 2


def test_a_session_is_empty_before_the_first_answer_and_keeps_the_last_that_names_a_route(tmp_path: Path) -> None:
    session = Session(tmp_path / "deep" / "session")
    assert session.headers() == []
    session.keep(Reply([("X-Seldon-Route", ":a_1:"), ("x-seldon-route", ":b.pipeline:")], [], ""))
    session.keep(Reply([], [], "no route"))
    assert session.headers() == [("x-seldon-route", ":a_1:"), ("x-seldon-route", ":b.pipeline:")]
