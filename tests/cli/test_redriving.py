"""`seldon pipeline redrive` before it reaches a broker."""

from __future__ import annotations

import time
from datetime import datetime

import click
import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.cli.moments import MOMENT


def test_which_requests_are_meant_must_be_said() -> None:
    found = CliRunner().invoke(main, ["pipeline", "redrive", "chain"])
    assert found.exit_code == 2
    assert found.stderr == "Error: say which: --request-id, --step, --since, --until, or --all\n"


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("30m", 1800), ("2h", 7200), ("1d", 86400)])
def test_a_time_may_be_told_by_how_long_ago_it_is(text: str, seconds: int) -> None:
    before = time.time()
    found = MOMENT.convert(text, None, None) / 1000
    assert before - seconds - 1 <= found <= time.time() - seconds


def test_a_time_is_local_unless_it_says_otherwise() -> None:
    assert MOMENT.convert("2026-11-24T09:30", None, None) == datetime(2026, 11, 24, 9, 30).timestamp() * 1000  # noqa: DTZ001
    assert MOMENT.convert("2026-11-24T09:30+00:00", None, None) == 1_795_512_600_000


@pytest.mark.parametrize("text", ["", "yesterday", "5", "m", "9999999d", "99999999-01-01"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="30m for half an hour ago"):
        MOMENT.convert(text, None, None)
