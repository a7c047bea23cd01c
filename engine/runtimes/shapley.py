"""Shapley values by shap: Kernel SHAP of any function of rows, and of text, and Tree SHAP of trees. Nothing waits here.

shap takes a second to import, and several where scikit-learn is not there yet: whoever explains first imports it.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from dataclasses import dataclass
from importlib.util import find_spec
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from engine.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Array: TypeAlias = "np.ndarray[Any, Any]"

# Which combinations of features are tried is drawn anew for each row from this, so that equal requests are explained
# equally.
SEED = 0

# Perturbed rows of one explanation lie in memory at once, as 64-bit numbers: 512 MB are no slip of the pen.
MOST_CELLS = 1 << 26


@dataclass(frozen=True, slots=True)
class Values:
    """What a row's answer is made of: `base + shap.sum(axis=1) == answer`, output by output.

    base    what the model answers when it knows no feature, (outputs,)
    shap    what each feature adds to that, (outputs, features)
    answer  what the model answers for the row, (outputs,)
    """

    base: Array
    shap: Array
    answer: Array


def is_installed() -> bool:
    """Whether shap could be imported, as far as can be told without importing it."""
    return find_spec("shap") is not None


def load() -> str:
    """Import shap and give its version. Raises ImportError."""
    shap = importlib.import_module("shap")
    # It warns at each explanation of a background of more than 100 rows; the documentation says so once.
    logging.getLogger("shap").setLevel(logging.ERROR)
    return str(shap.__version__)


def kernel(ask: Callable[[Array], Array], background: Array, rows: Array, samples: int | None) -> list[Values]:
    """Kernel SHAP of each row: a feature that is left out takes the values that it has in the background's rows.

    `ask` takes rows of features, (rows, features), and gives (rows, outputs); it is called once for all rows with the
    background, and once more for each row. `samples` bounds the combinations of features that are tried for a row;
    without it 2048 and two for each feature. Up to as many as there are, all are, and the values are exact.

    Raises InvalidInput when it would take too much memory.
    """
    _check_size(background, samples)
    answers = ask(np.concatenate([background, rows]))
    nothing, own = answers[: len(background)], answers[len(background) :]
    return [
        _kernel(ask, background, row, nothing, answer, samples)
        for row, answer in zip(rows[:, np.newaxis], own, strict=True)
    ]


def text(ask: Callable[[Sequence[str]], Array], written: str, samples: int | None) -> tuple[tuple[str, ...], Values]:
    """The words of a text and what each adds: Kernel SHAP over shap's text masker, which puts `...` for words.

    `ask` takes texts and gives (texts, outputs). Raises InvalidInput for a text without words.
    """
    if not written.strip():
        raise InvalidInput("the text has no words that could be explained")
    masker = importlib.import_module("shap").maskers.Text()
    words = tuple(masker.token_segments(written)[0])

    def ask_masked(masks: Array) -> Array:
        # The whole text as it came: the masker would change its spaces.
        return ask([written if mask.all() else str(masker(mask.astype(bool), written)[0][0]) for mask in masks])

    [values] = kernel(ask_masked, np.zeros((1, len(words))), np.ones((1, len(words))), samples)
    return words, values


class Trees:
    """Tree SHAP of a model of trees, such as those of scikit-learn, xgboost and lightgbm: exact, and without asking it.

    With a background the features that are left out take its values; without one their share in the training data.
    Raises what shap does when the model is none of trees.
    """

    def __init__(self, model: Any, background: Array | None) -> None:
        explainer = importlib.import_module("shap").TreeExplainer
        self._explainer, self._features = explainer(model, background), _feature_count(model)
        if background is not None and not _agree(self._explainer, explainer(model), background):
            raise ValueError("with this background shap's values do not add up to what the trees give; leave it out")

    def __call__(self, rows: Array) -> list[Values]:
        """The values of each row. Raises InvalidInput for rows that have not the features that the trees have."""
        if rows.shape[1] != self._features:
            # shap itself does not look, and would read what lies behind a row in memory.
            raise InvalidInput(f"a row has {rows.shape[1]} features; the trees take {self._features}")
        return _tree_values(self._explainer, rows)


def _tree_values(explainer: Any, rows: Array) -> list[Values]:
    found = np.asarray(explainer.shap_values(rows), dtype=np.float64)
    values = found[..., np.newaxis] if found.ndim == rows.ndim else found
    base = np.atleast_1d(np.asarray(explainer.expected_value, dtype=np.float64))
    return [Values(base, row.T, base + row.sum(axis=0)) for row in values]


def _agree(one: Any, other: Any, rows: Array) -> bool:
    """Whether two explainers make the same answers for these rows.

    shap 0.51 takes boosters of several classes wrongly when it is given a background.
    """
    answers, others = (np.array([values.answer for values in _tree_values(each, rows)]) for each in (one, other))
    return answers.shape == others.shape and bool(np.allclose(answers, others, rtol=1e-3, atol=1e-4))


def _feature_count(model: Any) -> int:
    """How many features the model says that it takes: as scikit-learn, xgboost and lightgbm name it."""
    for name in ("n_features_in_", "num_features", "num_feature"):
        told = getattr(model, name, None)
        if told is not None:
            return int(told() if callable(told) else told)
    raise ValueError("it does not say how many features it takes")


def _check_size(background: Array, samples: int | None) -> None:
    features = background.shape[1]
    wanted = samples or 2 * features + (1 << 11)
    count = min(wanted, (1 << features) - 2) if features <= _ENUMERABLE else wanted
    if count * background.size > MOST_CELLS:
        raise InvalidInput(
            f"{count} combinations of {features} features with {len(background)} rows of background are too many to "
            'explain; give the explainer less background, or the parameter "nsamples"'
        )


# Up to so many features shap knows how many combinations there are.
_ENUMERABLE = 30


def _kernel(
    ask: Callable[[Array], Array], background: Array, row: Array, nothing: Array, answer: Array, samples: int | None
) -> Values:
    """One row's values. shap asks first for the background and then for the row itself: those answers are here."""
    known = deque([nothing, answer[np.newaxis]])
    explainer = _seeded()(lambda rows: known.popleft() if known else ask(rows), background)
    [values] = explainer.shap_values(
        row,
        nsamples=samples or "auto",
        l1_reg=0,  # else it would drop all but ten features
        silent=True,
    )
    return Values(np.asarray(explainer.expected_value), values.T, answer)


def _seeded() -> Any:
    """Shap's Kernel SHAP with random numbers of its own.

    shap draws from numpy's global ones: to seed those would change what models in other threads draw, and what they
    draw meanwhile would change the explanation.
    """
    base = importlib.import_module("shap").KernelExplainer
    drawing = SimpleNamespace(**{**vars(np), "random": np.random.RandomState(SEED)})
    explain = FunctionType(
        base.explain.__code__, {**base.explain.__globals__, "np": drawing}, argdefs=base.explain.__defaults__
    )
    return type("Seeded", (base,), {"explain": explain})
