"""What `top` shows of an interval, on a screen and as lines."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engine.cli.topped import Interval, Screen, fitting, lines
from engine.telemetry.quantiles import Quantile
from engine.telemetry.scrapes import Calls, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAUD = (
    Row("pipeline", "fraud", 12.5, 0.5, Quantile(0.012, 0.01, 0.025), Quantile(0.2, 0.1, 0.25), 3, 2),
    Row("step", "score", 12.5, 0.0, Quantile(0.0002, 0.0, 0.0005), Quantile(0.0002, 0.0, 0.0005)),
)
IRIS = (Row("model", "iris", 0.0, 0.0),)
GROUPS = st.lists(
    st.tuples(st.floats(0, 100), st.integers(0, 4)).map(
        lambda each: (Row("pipeline", "p", each[0], 0.0), *[Row("step", "s", each[0], 0.0)] * each[1])
    ),
    max_size=30,
)


def interval(*groups: tuple[Row, ...], **given: Any) -> Interval:
    told = {"calls": Calls(12.5, {"500": 0.5}, 2, kafka=True), "away": {}, "addresses": ("here:9000",), "seconds": 2.0}
    return Interval(groups, **{**told, **given})


def drawn(shown: Interval, width: int = 80, height: int = 24, **how: Any) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height, **how).print(Screen(shown))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_lines_name_each_in_full() -> None:
    clock, *rest = lines(interval(FRAUD, IRIS)).splitlines()
    assert clock.partition("  ")[2] == "calls 12.5/s  failed 0.50/s (500 0.50/s)  answering 2  broker up"
    assert [line.replace(" ", "").split("\t") for line in rest] == [
        ["kind", "name", "requests/s", "p50", "p99", "failed/s", "lag", "inflight"],
        ["----", "----", "----------", "---", "---", "--------", "---", "---------"],
        ["pipeline", "fraud", "12.5", "12ms", "200ms", "0.50", "3", "2"],
        ["step", "fraud/score", "12.5", "<0.5ms", "<0.5ms", "0", "-", "-"],
        ["model", "iris", "0", "-", "-", "0", "-", "-"],
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_a_screen_has_steps_below_their_pipelines(width: int) -> None:
    shown = drawn(interval(FRAUD, IRIS), width)
    assert shown[0].startswith("seldon top  here:9000  ")
    assert [line.split()[0] for line in shown[5:]] == ["fraud", "score", "model"]
    assert shown[6].startswith("  score ")
    assert max(map(len, shown)) <= width


def test_a_screen_is_no_higher_than_the_terminal() -> None:
    many = [(Row("pipeline", f"p{number:03}", float(number), 0.0), *FRAUD[1:]) for number in range(200)]
    shown = drawn(interval(*many), height=24)
    assert len(shown) == 24
    assert shown[-1] == "and 191 more that do less"
    assert "p199" in shown[-3]


def test_a_process_that_is_away_is_told_of_with_since_when_and_why() -> None:
    away = {"there:9100": ("12:00:03", "Connection refused")}
    told = "there:9100 has been away since 12:00:03: Connection refused; trying again"
    assert drawn(interval(away=away, calls=None), 120)[1] == told
    assert lines(interval(away=away, calls=None)).splitlines()[0].partition("  ")[2] == told


def test_each_process_that_is_away_has_its_line_and_the_screen_still_fits() -> None:
    many = [(Row("pipeline", f"p{number:03}", 1.0, 0.0),) for number in range(200)]
    away = {f"there:{port}": ("12:00:03", "Connection refused") for port in range(3)}
    shown = drawn(interval(*many, away=away), height=24)
    assert [line.split()[0] for line in shown[1:5]] == ["there:0", "there:1", "there:2", "calls"]
    assert len(shown) == 24


def test_a_broker_that_is_away_is_told_of() -> None:
    assert drawn(interval(calls=Calls(0.0, {}, 0, kafka=False)))[1].endswith("broker away")


def test_colours_are_left_out_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = "\n".join(drawn(interval(FRAUD), force_terminal=True, color_system="standard"))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = "\n".join(drawn(interval(FRAUD), force_terminal=True, color_system="standard"))
    assert "\x1b[31m" in coloured
    assert "\x1b[31m" not in plain


def test_names_give_a_terminal_no_orders() -> None:
    nasty = (Row("pipeline", "a\x1b[2Jb\n", 1.0, 0.0),)
    assert "\x1b" not in "".join(drawn(interval(nasty))) + lines(interval(nasty))


@given(GROUPS, st.integers(3, 40))
def test_what_is_shown_fits_and_does_no_less_than_what_is_left_out(
    groups: Sequence[tuple[Row, ...]], room: int
) -> None:
    shown, left = fitting(groups, room)
    assert len(shown) + left == len(groups)
    assert sum(map(len, shown)) + bool(left) <= room
    if left:
        rates = sorted((group[0].requests for group in groups), reverse=True)
        assert sorted((group[0].requests for group in shown), reverse=True) == rates[: len(shown)]
        # Nothing more would have fitted, but for the line that tells of the others.
        assert len(shown) == len(groups) or sum(map(len, shown)) == room - 1
