from __future__ import annotations

import pytest

from engine.resources.problems import (
    MOST_PROBLEMS,
    Findings,
    Place,
    Problem,
    TooManyProblems,
    did_you_mean,
    nearest,
    quoted,
)

PLACE = Place("pipelines/fraud.yaml", 14, 9)
MESSAGE = 'step "score" reads "featurz.outputs"; no step has that name'


def test_a_problem_shows_its_line_and_marks_the_spot() -> None:
    problem = Problem(PLACE, MESSAGE, 'did you mean "features"?', "      - featurz.outputs", 7)
    assert str(problem) == (
        'pipelines/fraud.yaml:14:9: step "score" reads "featurz.outputs"; no step has that name\n'
        "   14 |       - featurz.outputs\n"
        '      |         ^^^^^^^ did you mean "features"?'
    )


def test_a_problem_without_a_line_keeps_its_hint_in_brackets() -> None:
    problem = Problem(Place("a.yaml", 1, 1), "no such step", 'did you mean "b"?')
    assert str(problem) == 'a.yaml:1:1: no such step (did you mean "b"?)'


def test_a_problem_without_line_and_hint_is_one_sentence() -> None:
    assert str(Problem(PLACE, "wrong")) == "pipelines/fraud.yaml:14:9: wrong"


def test_a_marker_ends_where_its_line_ends() -> None:
    assert str(Problem(Place("a", 1, 3), "wrong", "", "abcd", 90)).endswith("\n      |   ^^")


def test_a_marker_stands_right_after_a_tab() -> None:
    shown = str(Problem(Place("a", 1, 2), "wrong", "", "\tab", 2))
    assert shown == "a:1:2: wrong\n    1 |  ab\n      |  ^^"


def test_a_long_line_is_cut_around_the_spot() -> None:
    line = "x" * 5000 + "!" + "y" * 5000
    _, excerpt, marker = str(Problem(Place("a", 1, 5001), "wrong", "", line)).splitlines()
    assert len(excerpt) < 140
    assert excerpt[marker.index("^")] == "!"


def test_an_escape_sequence_in_a_line_does_not_reach_the_terminal() -> None:
    assert "\x1b" not in str(Problem(PLACE, "wrong", "", "\x1b[31m red"))


def test_findings_end_the_reading_when_there_are_enough() -> None:
    findings = Findings()
    for _ in range(MOST_PROBLEMS - 1):
        findings.add(Problem(PLACE, MESSAGE))
    with pytest.raises(TooManyProblems):
        findings.add(Problem(PLACE, MESSAGE))
    assert len(findings) == MOST_PROBLEMS


def test_nearest_finds_a_misspelt_name() -> None:
    assert nearest("featurz", ("score", "features")) == "features"


def test_nearest_finds_nothing_when_nothing_is_near() -> None:
    assert nearest("zzz", ("score", "features")) is None


def test_nearest_does_not_try_a_word_that_no_name_can_be() -> None:
    assert nearest("a" * 1000, ("a" * 1000,)) is None


def test_did_you_mean_is_empty_when_nothing_is_near() -> None:
    assert did_you_mean("zzz", ("score",)) == ""


def test_did_you_mean_names_the_nearest() -> None:
    assert did_you_mean("scor", ("score",)) == 'did you mean "score"?'


def test_quoted_keeps_a_message_on_one_line() -> None:
    assert quoted("a\nb\x1b") == r'"a\nb\x1b"'


def test_quoted_cuts_a_long_text() -> None:
    assert len(quoted("a" * 10_000)) == 82
