"""Shapley values against what is known of them: those of linear functions by hand, those of trees by shap itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shap
import xgboost
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier

from engine.errors import InvalidInput
from engine.runtimes import shapley

DRAWN = np.random.default_rng(7)
WEIGHTS = DRAWN.normal(size=(6, 2))
BACKGROUND = DRAWN.normal(size=(5, 6))
ROWS = DRAWN.normal(size=(3, 6))
WIDE = DRAWN.normal(size=(1, 25))
TRAINED = DRAWN.normal(size=(60, 6))
TREES = [RandomForestClassifier(7, random_state=0), GradientBoostingRegressor(random_state=0)]


def linear(rows: Any) -> Any:
    return rows @ WEIGHTS + 1.0


def crooked(rows: Any) -> Any:
    return np.tanh(rows.sum(axis=1, keepdims=True)) * rows[:, :1]


def test_a_linear_function_is_its_weights_times_the_distance_from_the_background() -> None:
    found = shapley.kernel(linear, BACKGROUND, ROWS, None)
    for values, row in zip(found, ROWS, strict=True):
        np.testing.assert_allclose(values.shap, WEIGHTS.T * (row - BACKGROUND.mean(axis=0)), atol=1e-9)
        np.testing.assert_allclose(values.base, linear(BACKGROUND).mean(axis=0))


def test_what_the_features_add_makes_the_answer() -> None:
    for values, answer in zip(shapley.kernel(crooked, BACKGROUND, ROWS, None), crooked(ROWS), strict=True):
        np.testing.assert_allclose(values.base + values.shap.sum(axis=1), answer)
        np.testing.assert_allclose(values.answer, answer)


def test_all_rows_are_asked_in_one_call_and_each_perturbed_in_one_more() -> None:
    calls = []

    def ask(rows: Any) -> Any:
        calls.append(len(rows))
        return linear(rows)

    shapley.kernel(ask, BACKGROUND, ROWS, None)
    combinations = 2**6 - 2
    assert calls == [5 + 3, *[combinations * 5] * 3]


def test_a_feature_that_is_as_in_the_background_adds_nothing() -> None:
    row = np.array([[1.0, 0.0, 2.0]])
    [values] = shapley.kernel(lambda rows: rows @ np.ones((3, 1)), np.zeros((1, 3)), row, None)
    np.testing.assert_allclose(values.shap, [[1.0, 0.0, 2.0]], atol=1e-12)


def test_the_same_is_explained_the_same_whatever_else_draws_random_numbers() -> None:
    def ask(rows: Any) -> Any:
        np.random.random_sample(3)  # noqa: NPY002  the numbers that all share
        return crooked(rows)

    first = shapley.kernel(ask, np.zeros((1, 25)), WIDE, 200)
    np.random.random_sample(5)  # noqa: NPY002
    again = shapley.kernel(ask, np.zeros((1, 25)), WIDE, 200)
    assert first[0].shap.tolist() == again[0].shap.tolist()


def test_explaining_leaves_the_random_numbers_that_all_share_alone() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random_sample()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    shapley.kernel(crooked, np.zeros((1, 25)), WIDE, 200)
    assert np.random.random_sample() == expected  # noqa: NPY002


def test_what_would_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(InvalidInput, match='give the explainer less background, or the parameter "nsamples"'):
        shapley.kernel(linear, np.zeros((1000, 1000)), np.zeros((1, 1000)), None)


def test_words_that_count_add_what_they_count() -> None:
    def ask(texts: Any) -> Any:
        return np.array([[text.count("good") - 2.0 * text.count("bad")] for text in texts])

    words, values = shapley.text(ask, "good plot, bad  end", None)
    assert words == ("good ", "plot, ", "bad  ", "end")
    np.testing.assert_allclose(values.shap, [[1.0, 0.0, -2.0, 0.0]], atol=1e-9)
    assert (values.base.tolist(), values.answer.tolist()) == ([0.0], [-1.0])


def test_the_whole_text_is_asked_as_it_came() -> None:
    asked: list[str] = []

    def ask(texts: Any) -> Any:
        asked.extend(texts)
        return np.zeros((len(texts), 1))

    shapley.text(ask, " two\n words ", None)
    assert " two\n words " in asked


@pytest.mark.parametrize("written", ["", " \n"])
def test_a_text_without_words_is_refused(written: str) -> None:
    with pytest.raises(InvalidInput, match="no words"):
        shapley.text(lambda _: np.zeros((1, 1)), written, None)


@pytest.mark.parametrize("background", [None, BACKGROUND])
@pytest.mark.parametrize("model", TREES, ids=["forest", "boosted"])
def test_trees_are_explained_as_shap_explains_them(model: Any, background: Any) -> None:
    model.fit(TRAINED, (TRAINED[:, 0] > 0).astype(int) + (TRAINED[:, 1] > 1))
    found = shapley.Trees(model, background)(ROWS)
    reference = shap.TreeExplainer(model, background)
    expected = np.asarray(reference.shap_values(ROWS)).reshape(3, 6, -1)
    answers = getattr(model, "predict_proba", model.predict)(ROWS).reshape(3, -1)
    for values, own, answer in zip(found, expected, answers, strict=True):
        np.testing.assert_allclose(values.shap, own.T)
        np.testing.assert_allclose(values.base, np.atleast_1d(reference.expected_value))
        np.testing.assert_allclose(values.answer, answer, atol=1e-6)


BOOSTED = {"objective": "multi:softprob", "num_class": 3}
CLASSES = (TRAINED[:, 0] > 0).astype(int) + (TRAINED[:, 1] > 0)


def test_boosters_are_explained_in_the_units_of_their_trees() -> None:
    booster = xgboost.train(BOOSTED, xgboost.DMatrix(TRAINED, CLASSES), 5)
    [values, *_] = shapley.Trees(booster, None)(ROWS)
    [margins, *_] = booster.predict(xgboost.DMatrix(ROWS), output_margin=True)
    np.testing.assert_allclose(values.answer, margins, atol=1e-5)


def test_a_background_with_which_shap_adds_up_wrongly_is_refused() -> None:
    booster = xgboost.train(BOOSTED, xgboost.DMatrix(TRAINED, CLASSES), 5)
    with pytest.raises(ValueError, match="do not add up to what the trees give; leave it out"):
        shapley.Trees(booster, BACKGROUND)


@pytest.mark.parametrize("width", [5, 7])
def test_rows_that_are_not_as_wide_as_the_trees_are_refused(width: int) -> None:
    trees = shapley.Trees(TREES[0].fit(TRAINED, CLASSES), None)
    with pytest.raises(InvalidInput, match=f"a row has {width} features; the trees take 6"):
        trees(np.zeros((1, width)))


def test_what_is_no_tree_is_told() -> None:
    with pytest.raises(Exception, match="not yet supported by TreeExplainer"):
        shapley.Trees(object(), None)
