from __future__ import annotations

from engine.errors import ModelFailed
from engine.protocol.record import Owner
from engine.telemetry.figures import SIZES, STEP_SECONDS, Distribution, Figures, Group
from engine.telemetry.totals import in_flight, lag, pace, totals


class Member:
    """Of a consumer group that is so far behind."""

    def __init__(self, behind: int) -> None:
        self._behind = behind

    async def measure(self) -> Group:
        found = {(Owner.PIPELINE, "fraud"): self._behind, (Owner.PIPELINE, "spam"): 1}
        return Group(Distribution(STEP_SECONDS), Distribution(SIZES), 0, 0, found)


def test_what_callers_and_pipelines_do_is_told_per_second() -> None:
    figures = Figures()
    figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 5.0)
    before = totals(figures)
    for _ in range(8):
        figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.02)
        figures.answered(Owner.MODEL, "score", "kafka", "OK", 0.02)
    figures.answered(Owner.MODEL, "score", "grpc", "INTERNAL", 0.02)
    flow = figures.flow(Owner.PIPELINE, "fraud")
    flow.taken, flow.in_flight = 16, 2
    flow.ended_unanswered(ModelFailed("it broke"))
    found = pace(before, totals(figures), 2.0)
    assert (found.calls, found.refused, found.requests, found.failed) == (4.5, 0.5, 8.0, 0.5)
    assert found.p99 is not None
    assert (found.p99.above, found.p99.below) == (0.01, 0.025)
    assert in_flight(figures) == 2


def test_what_was_unloaded_meanwhile_has_done_nothing() -> None:
    loaded = {"fraud"}
    figures = Figures(lambda _, name: name in loaded)
    figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.02)
    figures.flow(Owner.PIPELINE, "fraud").taken = 7
    before = totals(figures)
    loaded.clear()
    figures.forget()
    found = pace(before, totals(figures), 2.0)
    assert (found.calls, found.requests, found.p99) == (0.0, 0.0, None)


async def test_all_groups_are_behind_together() -> None:
    figures = Figures()
    figures.groups.update(one=Member(4), other=Member(5))
    assert await lag(figures) == 11
