"""Tables, JSON and YAML of lists and states."""

from __future__ import annotations

import json

import pytest
import yaml

from engine.cli import printing

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
