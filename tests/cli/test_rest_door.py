"""What answers by REST say."""

from __future__ import annotations

import pytest

from engine.cli.rest_door import error_text, indented


def test_a_body_that_is_no_error_object_is_shown_with_its_status() -> None:
    assert error_text(502, b"<html>") == "V2 server error: 502 <html>"


def test_an_error_object_says_its_text() -> None:
    assert error_text(404, b'{"error": "no model \\"m\\" is loaded"}') == 'no model "m" is loaded'


@pytest.mark.parametrize("body", [b"<html>", b"\xff"])
def test_what_is_no_json_is_shown_as_it_came(body: bytes) -> None:
    assert indented(body) == body.decode("utf-8", "backslashreplace")
