from __future__ import annotations

from engine.errors import ModelFailed, NoAnswer
from engine.protocol.record import Owner
from engine.telemetry.figures import Distribution, Figures, Flow, status


def test_a_value_on_a_bound_counts_below_it_and_one_above_all_bounds_counts_too() -> None:
    found = Distribution((1, 10))
    for value in (0.5, 1, 10, 11):
        found.observe(value)
    assert found.counts == [2, 1, 1]
    assert (found.count, found.sum) == (4, 22.5)


def test_a_value_may_come_many_times_at_once() -> None:
    found = Distribution((1,))
    found.observe(0.25, 4)
    assert (found.counts, found.sum) == ([4, 0], 1.0)


def test_an_error_of_a_kind_that_is_a_models_own_is_its_failure() -> None:
    class Odd(ModelFailed):
        pass

    assert status(Odd("it broke")) == "INTERNAL"
    assert status(NoAnswer("not taken")) == "FAILED_PRECONDITION"


def test_failures_are_counted_by_step_and_status() -> None:
    flow = Flow()
    flow.failed("score", ModelFailed("a"), 3)
    flow.failed("score", ModelFailed("b"))
    flow.failed("score", NoAnswer("c"))
    assert flow.errors == {("score", "INTERNAL"): 4, ("score", "FAILED_PRECONDITION"): 1}


def test_a_new_version_of_a_pipeline_counts_on() -> None:
    figures = Figures()
    figures.flow(Owner.PIPELINE, "fraud").taken = 5
    assert figures.flow(Owner.PIPELINE, "fraud").taken == 5
    assert figures.flow(Owner.MODEL, "fraud").taken == 0


def test_names_that_callers_invent_make_no_series() -> None:
    figures = Figures(lambda _, name: name == "fraud")
    for name in ("fraud", *map(str, range(1000))):
        figures.answered(Owner.PIPELINE, name, "rest", "404", 0.01)
    answers = figures.answers[Owner.PIPELINE]
    assert {key: found.count for key, found in answers.items()} == {
        ("fraud", "rest", "404"): 1,
        ("", "rest", "404"): 1000,
    }


def test_an_explainers_calls_are_those_of_a_model() -> None:
    figures = Figures()
    figures.answered(Owner.EXPLAINER, "why", "grpc", "OK", 0.5)
    assert figures.answers[Owner.MODEL]["why", "grpc", "OK"].count == 1


def test_calls_of_an_experiment_are_counted_by_who_got_them_until_it_is_unloaded() -> None:
    loaded = {"ab"}
    figures = Figures(lambda owner, name: owner is Owner.EXPERIMENT and name in loaded)
    for candidate in ("a", "b", "a"):
        figures.draw("ab", candidate)
    figures.forget()
    assert figures.drawn == {("ab", "a"): 2, ("ab", "b"): 1}
    loaded.clear()
    figures.forget()
    assert figures.drawn == {}


def test_what_is_unloaded_is_forgotten_but_for_the_sums_over_all() -> None:
    loaded = {"fraud", "other"}
    figures = Figures(lambda _, name: name in loaded)
    for name in loaded:
        figures.flow(Owner.PIPELINE, name)
        figures.answered(Owner.PIPELINE, name, "rest", "200", 2.0)
    loaded.remove("fraud")
    figures.forget()
    figures.forget()
    assert list(figures.flows) == [(Owner.PIPELINE, "other")]
    assert list(figures.answers[Owner.PIPELINE]) == [("other", "rest", "200")]
    assert figures.forgotten == {(Owner.PIPELINE, "rest"): (1, 2.0)}
