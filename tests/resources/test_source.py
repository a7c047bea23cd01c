from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.resources.source import DEEPEST, MOST_BYTES, Document, Place, documents, read

if TYPE_CHECKING:
    from pathlib import Path

PIPELINE = """\
spec:
  steps:
    - name: features
    - name: "score"
      inputs:
        - featurz.outputs
"""


def only(text: str | bytes) -> Document:
    found, problems = documents(text, "a.yaml")
    assert problems == []
    (document,) = found
    return document


def refusals(text: str | bytes) -> list[str]:
    """The headlines of all problems of a text that gives no document."""
    found, problems = documents(text, "a.yaml")
    assert found == []
    return [str(problem).splitlines()[0] for problem in problems]


def test_a_document_is_plain_data() -> None:
    text = "a: text\nb: [1, -2.5, true, null]\nc: {}\n"
    assert only(text).data == {"a": "text", "b": [1, -2.5, True, None], "c": {}}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("+7", 7),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("~", None),
        ("False", False),
        ("'1'", "1"),
        ('"true"', "true"),
        ("<<", "<<"),
    ],
)
def test_a_scalar_is_read_by_the_core_schema(written: str, value: object) -> None:
    (read_value,) = only(f"- {written}\n").data or ()
    assert (read_value, type(read_value)) == (value, type(value))


def test_json_is_yaml() -> None:
    assert only('{"a":[1,2.5e+20,null],"b":{"c":"d"}}').data == {"a": [1, 2.5e20, None], "b": {"c": "d"}}


def test_a_text_may_hold_several_documents() -> None:
    found, problems = documents("a: 1\n---\nb: 2\n", "a.yaml")
    assert ([document.data for document in found], problems) == ([{"a": 1}, {"b": 2}], [])


@pytest.mark.parametrize("text", ["", "---\n", "---\n---\n", "# nothing\n", "null\n", "\ufeff"])
def test_an_empty_document_is_passed_over(text: str) -> None:
    assert documents(text, "a.yaml") == ([], [])


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    assert only(b"\xef\xbb\xbfa: 1\n").place(("a",)) == Place("a.yaml", 1, 4)


def test_a_value_knows_its_place() -> None:
    place = only(PIPELINE).place(("spec", "steps", 1, "inputs", 0))
    assert str(place) == "a.yaml:6:11"


def test_a_quoted_value_begins_inside_its_quotes() -> None:
    assert only(PIPELINE).place(("spec", "steps", 1, "name")) == Place("a.yaml", 4, 14)


def test_a_key_knows_its_place() -> None:
    assert only(PIPELINE).key_place(("spec", "steps", 1, "inputs")) == Place("a.yaml", 5, 7)


def test_a_missing_value_has_the_place_of_what_lacks_it() -> None:
    assert only(PIPELINE).place(("spec", "steps", 0, "batch", "size")) == Place("a.yaml", 3, 7)


def test_a_missing_key_has_the_place_of_the_key_that_lacks_it() -> None:
    assert only(PIPELINE).key_place(("spec", "input", "steps")) == Place("a.yaml", 1, 1)


def test_the_second_document_counts_lines_from_the_start_of_the_file() -> None:
    found, _ = documents("a: 1\n---\nb: 2\n", "a.yaml")
    assert found[1].place(("b",)) == Place("a.yaml", 3, 4)


def test_columns_count_characters_and_not_bytes() -> None:
    assert only('{"ü€𝄞": 1}').place(("ü€𝄞",)) == Place("a.yaml", 1, 9)


def test_lines_are_counted_where_they_end_with_carriage_returns() -> None:
    problem = only("a: 1\r\nb: 2\rc: 3\n").problem(("c",), "wrong")
    assert (problem.place.line, problem.excerpt) == (3, "c: 3")


def test_a_problem_marks_the_whole_value() -> None:
    problem = only(PIPELINE).problem(("spec", "steps", 1, "inputs", 0), "wrong")
    assert str(problem).endswith("\n      |           ^^^^^^^^^^^^^^^")


def test_a_problem_may_mark_a_part_of_the_value() -> None:
    path = ("spec", "steps", 1, "inputs", 0)
    problem = only(PIPELINE).problem(path, "wrong", "a hint", 8, width=7)
    assert str(problem) == (
        "a.yaml:6:19: wrong\n    6 |         - featurz.outputs\n      |                   ^^^^^^^ a hint"
    )


def test_a_problem_may_mark_a_key() -> None:
    problem = only(PIPELINE).key_problem(("spec", "steps", 1, "inputs"), "wrong")
    assert (problem.place.column, problem.width) == (7, 6)


def test_a_syntax_error_has_its_place_and_where_the_open_thing_began() -> None:
    assert refusals("a:\n  - [1, 2\nb: 3\n") == [
        (
            "a.yaml:3:2: not valid YAML: did not find expected ',' or ']' "
            "while parsing a flow sequence that begins on line 2"
        )
    ]


def test_documents_before_a_syntax_error_are_read() -> None:
    found, problems = documents("a: 1\n---\nb: [\n", "a.yaml")
    assert ([document.data for document in found], len(problems)) == ([{"a": 1}], 1)


def test_anchors_and_aliases_are_refused_where_they_stand() -> None:
    assert refusals("a: &x [1]\nb: *x\n") == [
        "a.yaml:1:4: anchors and aliases are not supported",
        "a.yaml:2:4: anchors and aliases are not supported",
    ]


def test_an_alias_as_a_key_is_refused_once() -> None:
    assert refusals("? *x\n: 1\n") == ["a.yaml:1:3: anchors and aliases are not supported"]


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("!!python/object/apply:os.system [ls]", "!!python/object/apply:os.system"),
        ("!!str 5", "!!str"),
        ("!Ref x", "!Ref"),
        ("! x", "!"),
    ],
)
def test_a_tag_is_refused(value: str, tag: str) -> None:
    assert refusals(f"a: {value}\n") == [f'a.yaml:1:4: tags are not supported, here "{tag}"']


def test_a_key_written_twice_is_refused_at_its_second_place() -> None:
    assert refusals("a: 1\nb: 2\na: 3\n") == ['a.yaml:3:1: key "a" is written twice in one mapping']


@pytest.mark.parametrize("key", ["1", "true", "null", "1.5", "? [a]\n", "{a: b}"])
def test_a_key_that_is_no_text_is_refused(key: str) -> None:
    assert any("a key must be a text" in refusal for refusal in refusals(f"{key}: x\n"))


def test_a_key_that_json_could_not_carry_is_refused() -> None:
    (refusal,) = refusals(f"? {'k' * 2000}\n: 1\n")
    assert refusal.endswith("is too long")


@pytest.mark.parametrize("number", [".nan", ".inf", "-.INF", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    assert refusals(f"a: {number}\n") == [f'a.yaml:1:4: "{number}" is not a finite number']


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "0xffffffffffffffff"])
def test_an_integer_over_64_bits_is_refused(number: str) -> None:
    assert refusals(f"a: {number}\n") == [f'a.yaml:1:4: "{number}" does not fit into 64 bits']


def test_an_integer_of_many_digits_is_refused() -> None:
    (refusal,) = refusals("a: " + "9" * 5000)
    assert refusal.endswith("does not fit into 64 bits")


def test_a_control_character_is_refused_at_its_place() -> None:
    assert refusals("a: 1\nb: \x00\n") == ["a.yaml:2:4: character U+0000 is not allowed in YAML"]


def test_bytes_that_are_no_utf_8_are_refused_at_their_place() -> None:
    assert refusals("a: ü\nb: ".encode() + b"\xff") == [
        "a.yaml:2:4: byte 0xff is not valid UTF-8 (save the file as UTF-8)"
    ]


def test_all_faults_of_a_text_are_told_at_once() -> None:
    assert len(refusals("a: 1\na: 2\nb: !x 1\n1: 2\n---\nc: &x 1\n")) == 4


def test_a_faulty_document_does_not_hide_the_next() -> None:
    found, problems = documents("a: 1\na: 2\n---\nb: 3\n", "a.yaml")
    assert ([document.data for document in found], len(problems)) == ([{"b": 3}], 1)


def test_a_text_over_one_megabyte_is_refused() -> None:
    (refusal,) = refusals("a: 1\n" * MOST_BYTES)
    assert refusal.startswith("a.yaml:1:1: the text is larger than 1 MB")


def test_the_depth_that_is_allowed_is_read() -> None:
    assert only("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deeper_nesting_is_refused(opening: str) -> None:
    (refusal,) = refusals(opening * 100_000)
    assert "nested deeper than 50 levels" in refusal


def test_an_alias_bomb_is_refused_without_being_expanded() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 50)]
    assert len(refusals("a0: &a0 lol\n" + "\n".join(levels))) == 100


def test_ten_thousand_documents_are_refused_after_a_thousand() -> None:
    found, problems = documents("---\na: 1\n" * 10_000, "a.yaml")
    assert len(found) == 1000
    assert [problem.message for problem in problems] == ["more than 1000 documents in one text"]


def test_a_megabyte_of_small_values_is_refused() -> None:
    (refusal,) = refusals("[" + "1," * 500_000 + "]")
    assert "more than 50000 values in one text" in refusal


def test_a_megabyte_of_faults_ends_at_the_hundredth() -> None:
    assert len(refusals("- &a\n" * 200_000)) == 100


@settings(deadline=None)
@given(st.one_of(st.text(), st.binary()))
def test_any_text_gives_documents_or_problems(text: str | bytes) -> None:
    found, problems = documents(text, "a.yaml")
    assert all(isinstance(document, Document) for document in found)
    assert all(str(problem).startswith("a.yaml:") for problem in problems)


@settings(deadline=None)
@given(st.text(alphabet="ab01:-?![]{}&*#|>'\"%~<,. \t\n\r\x85\u2028"))
def test_any_text_of_yaml_signs_gives_documents_or_problems(text: str) -> None:
    _, problems = documents(text, "a.yaml")
    assert all(problem.place.line >= 1 and problem.place.column >= 1 for problem in problems)


def test_read_gives_the_bytes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\n")
    assert read(tmp_path / "a.yaml") == b"a: 1\n"


def test_read_stops_where_a_text_is_too_long_anyway(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (3 * MOST_BYTES))
    assert len(read(tmp_path / "a.yaml")) == MOST_BYTES + 1
