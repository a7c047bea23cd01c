"""What `bench` prints at its end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from engine.cli import benched
from engine.cli.load import UNSENT, Outcome, Schedule


def outcome(*times: float, **failed: str) -> Outcome:
    found = Outcome(seconds=10.0)
    for seconds in times:
        found.latencies.add(seconds)
    for status, reason in failed.items():
        found.fail(status, reason)
    return found


def printed(found: Outcome, cpu: float = 1.0) -> str:
    return benched.report(found, cpu).plain


def test_a_report_has_counts_times_and_a_histogram() -> None:
    assert printed(outcome(*[0.0035] * 30, *[0.0045] * 10)) == (
        "\nrequests  40 in 10.0 s\nanswered  40, 4.0/s\nfailed    0\n"
        "latency   p50 3.53 ms   p90 4.50 ms   p99 4.50 ms   max 4.50 ms\n\n"
        f"  up to 4 ms  {'█' * 40}  30\n  up to 5 ms  {'█' * 13}▍{' ' * 26}  10"
    )


def test_those_that_failed_are_told_by_status_the_most_frequent_first() -> None:
    found = outcome(NOT_FOUND="no model")
    found.fail("503", "away\nfor \x1b[31mlong", requests=1200)
    found.fail(UNSENT, "9 were in flight until the time was over", requests=30)
    assert printed(found) == (
        "\nrequests  1,231 in 10.0 s\nanswered  0, 0/s\nfailed    1,231\n"
        "  503        1,200  away\\nfor \\x1b[31mlong\n"
        "  not sent      30  9 were in flight until the time was over\n"
        "  NOT_FOUND      1  no model"
    )


def test_a_command_that_was_busy_itself_says_so() -> None:
    assert "kept a core busy" in printed(outcome(0.1), cpu=9.5)
    assert "kept a core busy" not in printed(outcome(0.1), cpu=5.0)


@pytest.mark.parametrize(
    ("share", "drawn"), [(0.0, ""), (1e-9, "▏"), (0.5, "██"), (0.53, "██▏"), (0.99, "████"), (1.0, "████")]
)
def test_a_bar_is_as_long_as_its_share_and_to_be_seen_at_all(share: float, drawn: str) -> None:
    assert benched.bar(share, 4) == drawn


def test_a_load_has_no_bar_where_nobody_looks() -> None:
    out = io.StringIO()
    bar = benched.Bar(Schedule(1, 10, 1), outcome(0.1), Console(file=out))
    bar.draw()
    bar.stop()
    assert out.getvalue() == ""


def test_a_bar_on_a_terminal_says_how_far_it_is() -> None:
    out = io.StringIO()
    bar = benched.Bar(
        Schedule(1, 10, 1), outcome(0.1, away="x"), Console(file=out, force_terminal=True, width=80, no_color=True)
    )
    bar.draw()
    bar.stop()
    assert "2 of 10" in out.getvalue()
    assert "p99 100 ms  0 in flight  1 failed" in out.getvalue()
