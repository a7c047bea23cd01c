"""How `pipeline inspect` prints what was found; reading is faked where the command calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from engine.cli.inspecting import TRUNCATED, inspect
from engine.errors import EngineError, InvalidSettings
from engine.inspect import Source, TopicRecords
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
        self.settings: Any = None
        self.asked: dict[str, Any] = {}

    async def __call__(self, settings: Any, expression: str, **asked: Any) -> list[TopicRecords]:
        self.settings, self.asked = settings, {"expression": expression, **asked}
        return self.found


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    fake = Reading()
    monkeypatch.setattr("engine.inspect.inspect", fake)
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
        "timeout": 5.0,
    }


def test_without_flags_the_last_message_of_the_default_namespace_is_asked_for(reading: Reading) -> None:
    run("p")
    assert (reading.asked["offset"], reading.asked["request_id"]) == (1, None)
    assert (reading.settings.namespace, reading.settings.kafka_broker) == ("default", "127.0.0.1:9092")


def test_a_request_that_is_not_found_is_told_of_with_the_flag_to_raise(reading: Reading) -> None:
    reading.found = [TopicRecords(Source(INPUTS, Side.INPUTS), ())]
    result = run("p", "--request-id", "r", "--offset", "10")
    assert isinstance(result.exception, EngineError)
    assert "--offset 100" in str(result.exception)


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
