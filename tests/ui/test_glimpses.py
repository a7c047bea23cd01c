from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from engine.protocol.messages import ModelInferRequest
from engine.protocol.tensors import DATATYPES, join_bytes, raw_of
from engine.ui.glimpses import FIRST, LONGEST, SAMPLE, glimpses
from engine.ui.streams import dumps


def raw(datatype: str, *data: Any, shape: tuple[int, ...] | None = None) -> Any:
    message = ModelInferRequest()
    message.inputs.add(name="t", datatype=datatype, shape=shape or [len(data)])
    kind = DATATYPES[datatype]
    array = np.array(data, dtype=object if kind.dtype is None else np.float32 if datatype == "BF16" else kind.dtype)
    message.raw_input_contents.append(raw_of(array, kind))
    return message


def typed(datatype: str, field: str, *data: Any) -> Any:
    message = ModelInferRequest()
    tensor = message.inputs.add(name="t", datatype=datatype, shape=[len(data)])
    getattr(tensor.contents, field).extend(data)
    return message


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BOOL", "BYTES")])
def test_numbers_of_every_datatype_are_shown(datatype: str) -> None:
    (found,) = glimpses(raw(datatype, 1, 2, 3))
    assert (found["first"], found["count"], found["cut"]) == ([1, 2, 3], 3, False)
    assert sum(found["histogram"]["counts"]) == 3


def test_typed_contents_are_shown_as_raw_ones_are() -> None:
    assert glimpses(typed("FP32", "fp32_contents", 1.5, 2.5)) == glimpses(raw("FP32", 1.5, 2.5))
    assert glimpses(typed("BOOL", "bool_contents", True, False)) == glimpses(raw("BOOL", True, False))
    assert glimpses(typed("BYTES", "bytes_contents", b"a", b"")) == glimpses(raw("BYTES", b"a", b""))


def test_of_a_large_tensor_the_first_are_shown_and_a_sample_is_counted() -> None:
    (found,) = glimpses(raw("INT32", *range(100_000)))
    assert (found["first"], found["count"], found["cut"]) == (list(range(FIRST)), 100_000, True)
    histogram = found["histogram"]
    assert histogram["sampled"]
    assert histogram["of"] == sum(histogram["counts"]) <= SAMPLE
    assert (histogram["low"], histogram["counts"][0]) == (0, pytest.approx(histogram["of"] / 16, abs=1))


def test_what_json_and_javascript_cannot_say_is_text() -> None:
    (found,) = glimpses(raw("FP32", math.nan, math.inf, -math.inf, 1))
    assert found["first"] == ["NaN", "Infinity", "-Infinity", 1]
    assert found["histogram"] is None
    (found,) = glimpses(raw("INT64", (1 << 53) + 1, 2))
    assert found["first"] == [str((1 << 53) + 1), 2]


def test_the_widest_numbers_have_a_histogram_too() -> None:
    (found,) = glimpses(raw("FP64", -1.7e308, 0.0, 1.7e308))
    assert (found["histogram"]["counts"][0], found["histogram"]["counts"][8], found["histogram"]["counts"][15]) == (
        1, 1, 1,
    )  # fmt: skip


def test_equal_numbers_stand_in_one_place() -> None:
    (found,) = glimpses(raw("INT32", 7, 7, 7))
    assert (found["histogram"]["low"], found["histogram"]["high"]) == (7, 7)
    assert found["histogram"]["counts"] == [3] + [0] * 15


def test_text_stays_as_it_is_markup_and_marks_included() -> None:
    strange = "<img onerror=x>\u202e\x1b\x00"
    (found,) = glimpses(raw("BYTES", strange.encode(), "é".encode()))
    assert (found["first"], found["cut"]) == ([strange, "é"], False)
    assert "encoding" not in found
    assert json.loads(dumps(found)) == found


def test_bytes_that_are_no_text_are_base64() -> None:
    (found,) = glimpses(raw("BYTES", b"\xff\xfe", b"a"))
    assert (found["first"], found["encoding"]) == (["//4=", "YQ=="], "base64")


@pytest.mark.parametrize("letter", ["a", "é", "漢", "😀"])
def test_a_long_text_is_cut_between_letters(letter: str) -> None:
    (found,) = glimpses(raw("BYTES", ("x" + letter * 100_000).encode()))
    assert (found["first"], found["cut"]) == ([("x" + letter * LONGEST)[:LONGEST]], True)
    assert "encoding" not in found


def test_of_many_texts_the_first_are_read() -> None:
    (found,) = glimpses(raw("BYTES", *[b"a"] * 1000))
    assert (found["first"], found["count"], found["cut"]) == (["a"] * FIRST, 1000, True)


def test_contents_that_do_not_fill_their_shape_or_have_no_datatype_are_shown_as_far_as_they_go() -> None:
    message = raw("INT32", 1, 2, shape=(5,))
    assert glimpses(message)[0]["first"] == [1, 2]
    message.inputs[0].datatype = "NONE"
    assert glimpses(message)[0]["first"] == []
    message.inputs[0].datatype = "BYTES"
    message.raw_input_contents[0] = join_bytes([b"ab"]) + b"\xff\xff\xff\xff"
    assert glimpses(message)[0]["first"] == ["ab", ""]
