"""How `pipeline inspect` prints what was found; reading is faked where the command calls it."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from engine.cli.inspected import TRUNCATED
from engine.cli.inspecting import Progress, inspect
from engine.errors import EngineError, InvalidSettings
from engine.inspect import Inspected, Source, TopicRecords
from engine.protocol import messages
from engine.protocol.record import Record, Side

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

INPUTS, ERRORS = "seldon.default.model.m.inputs", "seldon.default.errors.errors"
JSON = '{"modelName":"m","inputs":[{"name":"x","datatype":"INT32","shape":["1","2"],"contents":{"intContents":[1,2]}}]}'
HEADERS = (("pipeline", b"p"), ("x-a", b"1"), ("x-request-id", b"r"), ("x-a", b"2"))


def request() -> bytes:
    message = messages.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="INT32", shape=[1, 2])
    message.raw_input_contents.append(b"\1\0\0\0\2\0\0\0")
    return bytes(message.SerializeToString())


def some() -> list[TopicRecords]:
    return [
        TopicRecords(Source(INPUTS, Side.INPUTS), (Record(INPUTS, 0, 0, 0, b"p.r", request(), HEADERS),)),
        TopicRecords(
            Source(ERRORS, None), (Record(ERRORS, 0, 0, 0, None, b"two\nlines\x1b[1m", (("pipeline", b"p"),)),)
        ),
    ]


class Reading:
    """NOT the product's reading: gives what a test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.found = some()
        self.complete = True
        self.settings: Any = None
        self.asked: dict[str, Any] = {}
        self.came: list[list[TopicRecords]] = []

    async def __call__(self, settings: Any, expression: str, *, told: Any, **asked: Any) -> Inspected:
        self.settings, self.asked = settings, {"expression": expression, **asked}
        told(1, 0)
        return Inspected("p", tuple(self.found), {}, self.complete)

    async def follow(self, settings: Any, found: Inspected, show: Any, *, request_id: str | None) -> None:
        assert (settings, found.topics, request_id) == (self.settings, tuple(self.found), self.asked["request_id"])
        for each in self.came:
            show(each)
        # As Ctrl-C ends it.
        raise KeyboardInterrupt


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    fake = Reading()
    monkeypatch.setattr("engine.inspect.inspect", fake)
    monkeypatch.setattr("engine.inspect.follow", fake.follow)
    for name in ("SELDON_KAFKA_BROKER", "SELDON_KAFKA_CONFIG_PATH", "POD_NAMESPACE", "SELDON_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return fake


def run(*args: str) -> Result:
    assert isinstance(inspect, click.Command)
    return CliRunner().invoke(inspect, args, catch_exceptions=True)


def test_raw_is_a_line_for_each_record_with_topic_key_and_value(reading: Reading) -> None:
    assert reading.found
    assert run("p").stdout == f"{INPUTS}\tp.r\t{JSON}\n{ERRORS}\t\ttwo\\nlines\\x1b[1m\n"


def test_verbose_adds_the_headers_behind_two_tabs(reading: Reading) -> None:
    reading.found = reading.found[:1]
    headers = "pipeline=[p]\tx-a=[1 2]\tx-request-id=[r]"
    assert run("p", "-v").stdout == f"{INPUTS}\tp.r\t{JSON}\t\t{headers}\n"


def test_json_is_alone_on_stdout(reading: Reading) -> None:
    assert reading.found
    result = run("p", "--format", "json")
    assert json.loads(result.stdout) == {
        "topics": [
            {
                "name": INPUTS,
                "msgs": [
                    {
                        "headers": {"pipeline": ["p"], "x-a": ["1", "2"], "x-request-id": ["r"]},
                        "key": "p.r",
                        "value": json.loads(JSON),
                    }
                ],
            },
            {
                "name": ERRORS,
                "msgs": [{"headers": {"pipeline": ["p"]}, "key": "", "value": "two\nlines\x1b[1m"}],
            },
        ]
    }
    assert result.stderr == ""


def test_json_of_nothing_is_json(reading: Reading) -> None:
    reading.found = [TopicRecords(Source(INPUTS, Side.INPUTS), ())]
    assert run("p", "--format", "json").stdout == '{"topics":[{"name":"' + INPUTS + '","msgs":[]}]}\n'


def test_nothing_is_told_of_on_stderr(reading: Reading) -> None:
    reading.found = [TopicRecords(Source(INPUTS, Side.INPUTS), ())]
    result = run("p")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "p: no records yet\n")


def test_truncate_cuts_the_payload(reading: Reading) -> None:
    message = messages.ModelInferRequest(model_name="m" * 300)
    reading.found = [
        TopicRecords(Source(INPUTS, Side.INPUTS), (Record(INPUTS, 0, 0, 0, b"k", message.SerializeToString(), ()),))
    ]
    value = run("p", "-t").stdout.rstrip("\n").split("\t")[2]
    assert value == '{"modelName":"' + "m" * (TRUNCATED - 14) + "..."


def test_the_documented_call_asks_for_that_request(reading: Reading) -> None:
    result = run("tfsimples", "--request-id", "carjjolvqj3j2pfbut10", "--offset", "10")
    assert result.exit_code == 0
    assert reading.asked == {
        "expression": "tfsimples",
        "request_id": "carjjolvqj3j2pfbut10",
        "offset": 10,
        "since": None,
        "timeout": 5.0,
    }


def test_without_flags_the_last_message_of_the_default_namespace_is_asked_for(reading: Reading) -> None:
    run("p")
    assert (reading.asked["offset"], reading.asked["request_id"]) == (1, None)
    assert (reading.settings.namespace, reading.settings.kafka_broker) == ("default", "127.0.0.1:9092")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--request-id", "mine"), 'no record of request "mine" is on the topics of p'),
        (
            ("--request-id", "mine", "--since", "2026-11-24T09:30:00Z"),
            'no record of request "mine" is on the topics of p since 2026-11-24T09:30:00Z',
        ),
        (
            ("--request-id", "9m4e2mr0ui3e8a215n4g"),
            (
                'no record of request "9m4e2mr0ui3e8a215n4g" is on the topics of p from around 2011-03-22T17:50:19Z, '
                "when its id was made; if it was sent later, say when by --since"
            ),
        ),
    ],
)
def test_a_request_that_is_not_found_is_told_of_with_where_it_was_looked_for(
    reading: Reading, arguments: tuple[str, ...], text: str
) -> None:
    reading.found = [TopicRecords(Source(INPUTS, Side.INPUTS), ())]
    result = run("p", *arguments)
    assert isinstance(result.exception, EngineError)
    assert str(result.exception) == text


def test_all_that_came_since_a_time_is_asked_for_unless_a_number_is_said(reading: Reading) -> None:
    run("p", "--since", "2026-11-24T09:30:00+00:00")
    assert (reading.asked["since"], reading.asked["offset"]) == (1_795_512_600_000, None)
    run("p", "--since", "2h", "--offset", "3")
    assert reading.asked["offset"] == 3


def test_what_was_found_of_a_request_when_time_was_up_is_shown_and_that_there_may_be_more(reading: Reading) -> None:
    reading.complete = False
    result = run("p", "--request-id", "r")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    assert result.stderr == "there may be more of it: the time was up before all was read; raise --timeout-secs\n"


def test_follow_shows_what_there_is_and_what_comes_until_it_is_interrupted(reading: Reading) -> None:
    first, second = reading.found
    reading.found, reading.came = [first], [[second], [first, second]]
    result = run("p", "-f")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [INPUTS, ERRORS, INPUTS, ERRORS]


def test_each_line_of_json_that_follows_is_a_document(reading: Reading) -> None:
    reading.came = [[reading.found[1]]]
    lines = [json.loads(line) for line in run("p", "--format", "json", "--follow").stdout.splitlines()]
    assert [[item["name"] for item in line["topics"]] for line in lines] == [[INPUTS, ERRORS], [ERRORS]]


def test_following_a_request_that_is_not_there_yet_waits_for_it(reading: Reading) -> None:
    reading.came, reading.found = [reading.found], [TopicRecords(Source(INPUTS, Side.INPUTS), ())]
    result = run("p", "-f", "--request-id", "r")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)


def test_a_table_shows_a_request_step_by_step_with_the_first_values_of_its_tensors(reading: Reading) -> None:
    door = "seldon.default.pipeline.p.inputs"
    message = messages.ModelInferRequest()
    message.inputs.add(name="long", datatype="INT64", shape=[10]).contents.int64_contents.extend(range(10))
    message.inputs.add(name="real", datatype="FP64", shape=[2]).contents.fp64_contents.extend([0.1 + 0.2, 1e30])
    message.inputs.add(name="yes", datatype="BOOL", shape=[1]).contents.bool_contents.append(True)
    message.inputs.add(name="text", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"a\nb", b"x" * 60])
    came = Record(door, 0, 0, 1_700_000_000_001, b"p.r", message.SerializeToString(), (("x-request-id", b"r"),))
    step = Record(INPUTS, 0, 0, 1_700_000_000_002, b"p.r", request(), (("x-request-id", b"r"),))
    failed = Record(ERRORS, 0, 0, 1_700_000_000_003, b"p.r", b"it\nbroke", (("x-request-id", b"r"),))
    reading.found = [
        TopicRecords(Source(INPUTS, Side.INPUTS), (step,)),
        TopicRecords(Source(door, Side.INPUTS), (came,)),
        TopicRecords(Source(ERRORS, None), (failed,)),
    ]
    shown = run("p", "--format", "table").stdout
    assert shown == (
        "request r\n"
        "\n"
        f"{door}\tp.r\t2023-11-14T22:13:20.001Z\n"
        "tensor\tdatatype\tshape\tvalues\n"
        "------\t--------\t-----\t------\n"
        "long  \tINT64   \t[10] \t0 1 2 3 4 5 6 7 … 10 in all\n"
        "real  \tFP64    \t[2]  \t0.3 1e+30\n"
        "yes   \tBOOL    \t[1]  \ttrue\n"
        f'text  \tBYTES   \t[2]  \t"a\\nb" "{"x" * 40}…"\n'
        "\n"
        f"{INPUTS}\tp.r\t2023-11-14T22:13:20.002Z\n"
        "tensor\tdatatype\tshape\tvalues\n"
        "------\t--------\t-----\t------\n"
        "x     \tINT32   \t[1,2]\t1 2\n"
        "\n"
        f"{ERRORS}\tp.r\t2023-11-14T22:13:20.003Z\n"
        "it\\nbroke\n"
    )


def test_a_table_of_several_requests_has_one_after_the_other(reading: Reading) -> None:
    records = tuple(
        Record(INPUTS, 0, n, 1_700_000_000_000 + n, b"k", request(), (("x-request-id", name),))
        for n, name in enumerate((b"first", b"second", b"first"))
    )
    reading.found = [TopicRecords(Source(INPUTS, Side.INPUTS), records)]
    lines = run("p", "--format", "table", "-v").stdout.splitlines()
    assert [line for line in lines if line.startswith("request")] == ["request first", "request second"]
    assert [line for line in lines if line.startswith("x-")] == [
        f"x-request-id=[{n}]" for n in ("first", "first", "second")
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_now_and_then_and_wiped_in_the_end() -> None:
    stream, clock = Terminal(), iter([0.0, 0.1, 0.3, 0.4, 0.6])
    progress = Progress(stream, lambda: next(clock))
    for count in range(1, 5):
        progress.told(count * 1000, 1_700_000_000_000)
    progress.end()
    shown = stream.getvalue().split("\r\x1b[K")
    assert shown == ["", *(f"{n},000 records read, now those of 2023-11-14T22:13:20Z" for n in (2, 4)), ""]


def test_no_progress_is_shown_where_nobody_watches() -> None:
    stream, clock = io.StringIO(), iter([0.0, 9.0])
    progress = Progress(stream, lambda: next(clock))
    progress.told(1, 0)
    progress.end()
    assert stream.getvalue() == ""


def test_flags_say_where_to_look(reading: Reading) -> None:
    run(
        "p", "--kafka-broker", "b:1", "--namespace", "ns", "--topic-prefix", "pre", "--scheduler-host", "x:1", "-d", "2"
    )
    settings = reading.settings
    assert (settings.kafka_broker, settings.namespace, settings.topic_prefix) == ("b:1", "ns", "pre")
    assert reading.asked["timeout"] == 2


def test_a_kafka_config_says_where_to_look_unless_a_flag_does(reading: Reading, tmp_path: Path) -> None:
    path = tmp_path / "kafka.json"
    path.write_text('{"bootstrap.servers": "c:1", "topicPrefix": "pre"}', encoding="utf-8")
    run("p", "--kafka-config-path", str(path), "--kafka-broker", "b:1")
    assert (reading.settings.kafka_broker, reading.settings.topic_prefix) == ("b:1", "pre")
    run("p", "--kafka-config-path", str(path))
    assert reading.settings.kafka_broker == "c:1"


def test_a_kafka_config_that_is_not_there_is_refused(reading: Reading, tmp_path: Path) -> None:
    result = run("p", "--kafka-config-path", str(tmp_path / "none.json"))
    assert isinstance(result.exception, InvalidSettings)
    assert reading.asked == {}


@pytest.mark.parametrize("args", [("--offset", "0", "p"), ("--format", "xml", "p"), ()])
def test_wrong_input_is_a_usage_error(reading: Reading, args: tuple[str, ...]) -> None:
    assert run(*args).exit_code == 2
    assert reading.asked == {}
