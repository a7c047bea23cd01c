"""What is read from `/metrics` is what a process has counted between two looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import ModelFailed
from engine.protocol.record import Owner
from engine.telemetry.exposition import scrape
from engine.telemetry.figures import SIZES, STEP_SECONDS, Distribution, Figures, Group
from engine.telemetry.scrapes import NoFigures, Row, calls, change, parse, rows, together

COUNTER = st.dictionaries(st.sampled_from([(("pipeline", name),) for name in "abc"]), st.floats(0, 1e9), max_size=3)


class Member:
    """Of a consumer group, that is four records behind on a pipeline and six on a model."""

    async def measure(self) -> Group:
        behind = {(Owner.PIPELINE, "fraud"): 4, (Owner.MODEL, "score"): 6}
        return Group(Distribution(STEP_SECONDS), Distribution(SIZES), 0, 0, behind)


def busy() -> Figures:
    """A process that has a past."""
    figures = Figures()
    figures.groups["group"] = Member()
    flow = figures.flow(Owner.PIPELINE, "fraud")
    flow.taken = 1000
    flow.step("features").seconds.observe(0.3, 1000)
    flow.step("score").seconds.observe(0.3, 1000)
    figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.3)
    return figures


def work(figures: Figures) -> None:
    """What is done between two looks."""
    flow = figures.flow(Owner.PIPELINE, "fraud")
    flow.taken += 20
    flow.in_flight = 3
    flow.step("features").seconds.observe(0.004, 20)
    flow.step("score").seconds.observe(0.04, 20)
    flow.failed("score", ModelFailed("it broke"))
    flow.failed("fraud", ModelFailed("nobody is at fault"))
    flow.ended_unanswered(ModelFailed("it broke"))
    for _ in range(10):
        figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.02)
        figures.answered(Owner.PIPELINE, "fraud", "grpc", "OK", 0.02)
        figures.answered(Owner.MODEL, "score", "kafka", "OK", 0.04)
    figures.answered(Owner.MODEL, "iris", "rest", "500", 20.0)
    figures.answered(Owner.PIPELINE, "", "rest", "404", 0.001)
    figures.calls["rest"] = 2


async def text(figures: Figures) -> str:
    body, _ = await scrape(figures, "text/plain")
    return body.decode()


async def changed(figures: Figures, seconds: float = 2.0) -> dict[str, Row]:
    """The rows by their names, those of steps behind their pipelines', after some work."""
    before = parse(await text(figures))
    work(figures)
    found = rows(together([change(before, parse(await text(figures)), seconds)]))
    return {row.name if row is group[0] else f"{group[0].name}/{row.name}": row for group in found for row in group}


async def test_a_pipeline_tells_what_it_did_since_the_last_look() -> None:
    row = (await changed(busy()))["fraud"]
    assert (row.kind, row.requests, row.failed, row.lag, row.in_flight) == ("pipeline", 10.0, 0.5, 4, 3)
    assert row.p50 is not None
    assert row.p99 is not None
    assert (row.p50.above, row.p50.below) == (row.p99.above, row.p99.below) == (0.01, 0.025)


async def test_steps_stand_behind_their_pipeline_in_the_order_of_their_run() -> None:
    found = await changed(busy())
    assert list(found)[:3] == ["fraud", "fraud/features", "fraud/score"]
    assert [found[name].requests for name in ("fraud/features", "fraud/score")] == [10.0, 10.0]
    assert [found[name].failed for name in ("fraud/features", "fraud/score")] == [0.0, 0.5]
    quick = found["fraud/features"].p99
    assert quick is not None
    assert (quick.above, quick.below) == (0.0025, 0.005)


async def test_what_no_step_is_at_fault_for_makes_no_step_of_the_pipelines_name() -> None:
    assert "fraud/fraud" not in await changed(busy())


async def test_models_are_told_of_that_callers_have_called_or_that_are_behind() -> None:
    found = await changed(busy())
    assert [name for name, row in found.items() if row.kind == "model"] == ["iris", "score"]
    assert (found["iris"].requests, found["iris"].failed) == (0.5, 0.5)
    assert found["iris"].p99 is not None
    assert found["iris"].p99.below == float("inf")
    # Calls that workers make for pipelines are told of as steps.
    assert (found["score"].requests, found["score"].lag) == (0.0, 6)


async def test_calls_of_all_names_are_told_of_with_the_codes_of_those_that_failed() -> None:
    figures = busy()
    before = parse(await text(figures))
    work(figures)
    found = calls(together([change(before, parse(await text(figures)), 2.0)]))
    assert (found.rate, found.failed, found.in_flight, found.kafka) == (11.0, {"500": 0.5, "404": 0.5}, 2, True)


async def test_a_process_that_has_lost_the_broker_is_told_of_though_others_have_it() -> None:
    well, ill = busy(), busy()
    ill.kafka = lambda: "it does not answer"
    found = [parse(await text(each)) for each in (well, ill)]
    assert not calls(together([change(each, each, 1.0) for each in found])).kafka
    assert calls(together([change(found[0], found[0], 1.0)])).kafka


async def test_a_process_that_has_begun_anew_counts_from_nothing() -> None:
    before = parse(await text(busy()))
    anew = Figures()
    anew.flow(Owner.PIPELINE, "fraud").taken = 6
    found = rows(change(before, parse(await text(anew)), 2.0))
    assert found[0][0].requests == 3.0


async def test_figures_of_several_processes_are_added_up() -> None:
    one, other = busy(), busy()
    before = [parse(await text(each)) for each in (one, other)]
    work(one)
    work(other)
    after = [parse(await text(each)) for each in (one, other)]
    found = rows(together([change(earlier, later, 2.0) for earlier, later in zip(before, after, strict=True)]))
    assert (found[0][0].requests, found[0][0].lag, found[0][0].in_flight) == (20.0, 8, 6)
    assert found[0][1].requests == 20.0


async def test_a_gateway_without_workers_tells_of_pipelines_what_callers_met() -> None:
    figures = Figures()
    before = parse(await text(figures))
    figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.02)
    figures.answered(Owner.PIPELINE, "", "rest", "404", 0.02)
    found = rows(change(before, parse(await text(figures)), 2.0))
    assert [(row.name, row.requests) for group in found for row in group] == [("fraud", 0.5)]


async def test_a_page_is_read_as_the_library_reads_it() -> None:
    figures = busy()
    work(figures)
    figures.flow(Owner.PIPELINE, 'a "quoted\\n" name, with=} {braces \\ and\na line').taken = 5
    page = await text(figures)
    expected: dict[str, dict[object, float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            expected.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    assert parse(page) == expected


@pytest.mark.parametrize(
    "page", ["", "<html>hello</html>", "up 1\n", "seldon_kafka_up {", "\0", "seldon_kafka_up one\n"]
)
def test_what_is_no_page_of_ours_is_refused(page: str) -> None:
    with pytest.raises(NoFigures):
        parse(page)


@given(COUNTER, COUNTER, st.floats(0.1, 100))
def test_no_rate_is_below_nothing(before: dict[object, float], after: dict[object, float], seconds: float) -> None:
    name = "seldon_pipeline_requests_total"
    found = change({name: before}, {name: after}, seconds)[name]  # type: ignore[dict-item]
    assert found.keys() == after.keys()
    assert all(0 <= rate <= after[labels] / seconds for labels, rate in found.items())
    again = change({name: after}, {name: after}, seconds)[name]  # type: ignore[dict-item]
    assert not any(again.values())
