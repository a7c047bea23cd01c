"""Tables, JSON and YAML of lists and states."""

from __future__ import annotations

import json
import math

import pytest
import yaml

from engine.cli import printing
from engine.telemetry.quantiles import Quantile

ROWS = [{"name": "iris", "version": 2, "active": True, "reason": "no"}]
COLUMNS = {"model": "name", "active": "active"}


def test_a_table_shows_its_columns_under_their_titles() -> None:
    assert printing.rows(ROWS, COLUMNS, "table") == "model\tactive\n-----\t------\niris \ttrue"


def test_a_table_of_nothing_has_its_titles() -> None:
    assert printing.rows([], COLUMNS, "table") == "model\tactive\n-----\t------"


def test_a_reason_of_several_lines_stays_on_its_line() -> None:
    assert printing.rows([{"reason": "a\nb\x1b"}], {"reason": "reason"}, "table") == "reason\n------\na\\nb\\x1b"


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_get_all_that_is_known(form: str, read: object) -> None:
    assert callable(read)
    assert read(printing.rows(ROWS, COLUMNS, form)) == ROWS


def test_yaml_keeps_the_order_of_keys() -> None:
    assert printing.document({"b": (1, 2), "a": "no"}, "yaml") == "b:\n- 1\n- 2\na: 'no'"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0000425, "0.043 ms"), (0.004125, "4.12 ms"), (0.0412, "41.2 ms"), (0.412, "412 ms"), (1.234, "1.23 s"),
     (75.0, "75.0 s"), (7500.0, "7,500 s")],
)  # fmt: skip
def test_a_time_has_three_digits_and_its_unit(seconds: float, written: str) -> None:
    assert printing.duration(seconds) == written


@pytest.mark.parametrize(
    ("per_second", "written"), [(0, "0"), (0.034, "0.03"), (4.25, "4.2"), (120.4, "120"), (12_345.6, "12,346")]
)
def test_a_rate_has_as_many_digits_as_are_of_use(per_second: float, written: str) -> None:
    assert printing.rate(per_second) == written


@pytest.mark.parametrize(
    ("found", "written"),
    [(None, "-"), (Quantile(0.0123, 0.01, 0.025), "12 ms"), (Quantile(1.62, 1.0, 2.5), "1.6 s"),
     (Quantile(0.0025, 0.0, 0.005), "<5 ms"), (Quantile(10.0, 10.0, math.inf), ">10 s")],
)  # fmt: skip
def test_an_estimate_says_no_more_than_the_histogram_does(found: Quantile | None, written: str) -> None:
    assert printing.estimate(found) == written
