from __future__ import annotations

import pytest

from engine.protocol.columns import TensorSpec
from engine.runtimes.declared import mismatch

DECLARED = {
    "x": TensorSpec("x", "FP32", (-1, 4)),
    "open": TensorSpec("open", "", ()),
    "odd": TensorSpec("odd", "TYPE_FP32", (0, 3)),
}


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", "FP32", (1, 4)),
        TensorSpec("x", "FP32", (0, 4)),
        TensorSpec("x", "FP32", (7, 4), b"parameters say nothing of it"),
        TensorSpec("open", "BYTES", (1, 2, 3)),
        TensorSpec("odd", "INT8", (9, 3)),
    ],
)
def test_what_a_model_may_take_is_no_mismatch(spec: TensorSpec) -> None:
    assert mismatch(DECLARED, [spec]) is None


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (TensorSpec("x", "FP64", (1, 4)), 'takes "x" FP32 [-1, 4] and was given FP64 [1, 4]'),
        (TensorSpec("x", "FP32", (1, 5)), 'takes "x" FP32 [-1, 4] and was given FP32 [1, 5]'),
        (TensorSpec("x", "FP32", (4,)), 'takes "x" FP32 [-1, 4] and was given FP32 [4]'),
        (
            TensorSpec("y", "FP32", (1, 4)),
            'has no input "y"; it takes "x" FP32 [-1, 4], "open", "odd" TYPE_FP32 [0, 3]; rename with tensorMap',
        ),
    ],
)
def test_what_a_model_does_not_take_is_told_with_what_it_takes(spec: TensorSpec, text: str) -> None:
    assert mismatch(DECLARED, [TensorSpec("open", "FP32", (1,)), spec]) == text


def test_a_model_that_declares_nothing_takes_all() -> None:
    assert mismatch({}, [TensorSpec("y", "FP64", (1,))]) is None


def test_inputs_that_are_missing_may_be_optional() -> None:
    assert mismatch(DECLARED, []) is None
