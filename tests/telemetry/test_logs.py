from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BrokerUnavailable, ModelFailed
from engine.protocol.record import PIPELINE, REQUEST_ID, TRACE_PARENT
from engine.telemetry import logs
from engine.telemetry.logs import CONCERN, Concern

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("engine.here")
TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRET = "tensor-4711"


class Lines:
    """What stands in the log."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    @property
    def text(self) -> str:
        return self._capsys.readouterr().err

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """Without pytest's own handlers, and all that is set for the whole process as it was afterwards."""
    root = logging.getLogger()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    handlers, level = root.handlers, root.level
    yield Lines(capsys)
    logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith(("aiokafka", "faust", "mode")):
            logging.getLogger(name).setLevel(logging.NOTSET)


def headers(number: int = 0, flags: str = "01") -> list[tuple[str, bytes | None]]:
    parent = f"00-{TRACE}-b7ad6b7169203331-{flags}"
    return [(REQUEST_ID, f"id-{number}".encode()), (PIPELINE, b"fraud"), (TRACE_PARENT, parent.encode())]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as found:
        return found


def test_a_line_is_one_object_that_names_the_requests_that_it_concerns(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    log.warning("it is %s", "late", extra=logs.about(headers(1), headers(2), step="score"))
    [line] = lines.json
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "engine.here",
        "message": "it is late",
        "pipeline": "fraud",
        "step": "score",
        "request_ids": ["id-1", "id-2"],
        "trace_ids": [TRACE, TRACE],
    }


def test_the_same_as_text_stands_on_a_line_that_people_read(lines: Lines) -> None:
    logs.begin("WARNING", "text")
    log.warning("it is late", extra=logs.about(headers(1), step="score"))
    [line] = lines.text.splitlines()
    assert line.endswith(
        f" WARNING engine.here: it is late [pipeline=fraud step=score request_ids=id-1 trace_ids={TRACE}]"
    )


async def test_a_line_of_whoever_answers_a_call_names_its_requests_without_knowing_them(lines: Lines) -> None:
    logs.begin("INFO", "json")

    async def call(number: int) -> None:
        CONCERN.set(Concern([headers(number)]))
        await asyncio.sleep(0)
        log.info("slow")

    await asyncio.gather(call(0), call(1))
    log.critical("something else")
    assert [line.get("request_ids") for line in lines.json] == [["id-0"], ["id-1"], None]


def test_a_trace_that_is_not_recorded_is_not_named(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    log.warning("late", extra=logs.about(headers(flags="00")))
    assert "trace_ids" not in lines.json[0]


def test_of_a_large_batch_some_requests_are_named_and_all_are_counted(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    log.warning("late", extra=logs.about(*(headers(number) for number in range(1000))))
    [line] = lines.json
    assert len(line["request_ids"]) == logs.MOST_REQUESTS
    assert line["requests"] == 1000


def test_a_request_id_cannot_look_like_a_line_of_ours(lines: Lines) -> None:
    logs.begin("WARNING", "text")
    log.warning("late %s", "\x1b[2J", extra=logs.about([(REQUEST_ID, "a\nERROR engine: b\u202e".encode())]))
    [line] = lines.text.splitlines()
    assert line.endswith(r"late \x1b[2J [request_ids=a\nERROR engine: b\u202e]")


@pytest.mark.parametrize("form", ["text", "json"])
def test_of_an_error_the_way_is_told_and_not_its_text(lines: Lines, form: str) -> None:
    logs.begin("DEBUG", form)
    failure = ModelFailed(SECRET)
    failure.__cause__ = raised(KeyError(SECRET))
    log.error("a model failed", exc_info=raised(failure))
    said = lines.text
    assert SECRET not in said
    assert "KeyError" in said
    assert "engine.errors.ModelFailed" in said
    assert "test_logs.py" in said


def test_what_the_system_and_the_broker_say_is_told(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    log.warning("no", exc_info=raised(BrokerUnavailable("nobody listens at localhost:1")))
    log.error("no", exc_info=raised(FileNotFoundError(2, "No such file", SECRET)))
    assert [line["error"] for line in lines.json] == [
        "engine.errors.BrokerUnavailable: nobody listens at localhost:1",
        "FileNotFoundError: No such file or directory",
    ]


def test_the_errors_of_a_group_are_told_each(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    log.warning("no", exc_info=raised(ExceptionGroup(SECRET, [ValueError(SECRET), OSError(5, SECRET)])))
    [line] = lines.json
    assert line["error"] == "ExceptionGroup"
    assert "\nValueError\n" in line["traceback"]
    assert "OSError: Input/output error" in line["traceback"]


@given(text=st.text(st.characters(codec="utf-8"), min_size=8))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_error_says_it_is_not_in_the_log(lines: Lines, text: str) -> None:
    logs.begin("DEBUG", "json")
    log.error("no", exc_info=raised(ValueError(text)))
    [line] = lines.json
    assert line["error"] == "ValueError"
    assert line["message"] == "no"


def test_a_warning_of_python_is_a_line_too(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    [line] = lines.json
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in line["message"]


def test_an_error_of_a_thread_and_one_that_ends_the_process_are_told_by_kind(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    thread = threading.Thread(target=lambda: {}[SECRET], name="worker-1")
    thread.start()
    thread.join()
    sys.excepthook(ValueError, raised(ValueError(SECRET)), None)
    assert [(line["level"], line["message"], line["error"]) for line in lines.json] == [
        ("ERROR", "an error ended the thread worker-1", "KeyError"),
        ("CRITICAL", "an error that nobody caught ends the process", "ValueError"),
    ]


async def test_an_error_that_no_task_awaits_is_told_by_kind(lines: Lines) -> None:
    logs.begin("WARNING", "json")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.faulty_task)
    context = {"message": "Task exception was never retrieved", "exception": raised(ValueError(SECRET)), "task": SECRET}
    loop.call_exception_handler(context)
    [line] = lines.json
    assert (line["message"], line["error"]) == ("Task exception was never retrieved", "ValueError")


def test_the_same_warning_is_told_once_in_a_while_with_how_often_it_was_not(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.begin("INFO", "json")
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    for _ in range(2):
        for _ in range(5):
            log.warning("the broker is away")
        log.info("told each time")
        now += logs.SAME_LINE_SECONDS
    assert [(line["message"], line.get("not_repeated")) for line in lines.json] == [
        ("the broker is away", None),
        ("told each time", None),
        ("the broker is away", 4),
        ("told each time", None),
    ]


@pytest.mark.parametrize("name", ["aiokafka.conn", "aiokafka.producer.producer", "faust.topics"])
def test_those_that_tell_whole_messages_are_kept_from_it(lines: Lines, name: str) -> None:
    logs.begin("DEBUG", "json")
    logging.getLogger(name).debug("Sending (value=%s)", SECRET)
    assert lines.json == []
