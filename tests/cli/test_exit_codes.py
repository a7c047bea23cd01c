"""How commands end: 0 done, 1 failed, 2 wrong input; an error is told on stderr, and stdout stays clean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from engine.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIPELINE = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: p}
spec:
  steps: [{name: score}]
  output: {steps: [score]}
"""
MODEL = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: m}
spec: {storageUri: "grpc://127.0.0.1:1"}
"""

# What each command that needs a broker or a gateway wants beside its flags; FILE: a file of a model and a pipeline.
FILE = "FILE"
KAFKA = {
    "worker": (),
    "gateway": ("--listen", "127.0.0.1:0"),
    "load": ("-f", FILE),
    "unload": ("-f", FILE),
    "status": (),
    "model load": ("-f", FILE),
    "model unload": ("m",),
    "model list": (),
    "model status": ("m",),
    "pipeline load": ("-f", FILE),
    "pipeline unload": ("p",),
    "pipeline list": (),
    "pipeline status": ("p",),
    "pipeline inspect": ("p",),
    "pipeline redrive": ("p", "--all"),
    "experiment start": ("-f", FILE),
    "experiment stop": ("e",),
    "experiment status": ("e",),
    "experiment list": (),
    "topics list": (),
}
GATEWAY = {"model infer": ("m", "{}"), "model metadata": ("m",), "pipeline infer": ("p", "{}"), "bench": ("m", "{}")}
FILES = [name for name, arguments in KAFKA.items() if "-f" in arguments]
CONFIG = ("add", "activate", "deactivate", "list", "remove")
# Those that start something on their own, or need neither.
OTHERS = {"up", "top", "completion", "pipeline graph", "pipeline try", *(f"config {verb}" for verb in CONFIG)}

EXPERIMENT = """\
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Experiment
metadata: {name: e}
spec:
  candidates: [{name: m, weight: 1}]
"""


def commands(group: click.Group, *names: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


ALL = dict(commands(main))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "all.yaml"
    path.write_text(f"{MODEL}---\n{PIPELINE}{EXPERIMENT}")
    return str(path)


def seldon(name: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*name.split(), *arguments])


def fails(result: Result, code: int) -> None:
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_every_command_is_looked_at() -> None:
    assert set(ALL) == {*KAFKA, *GATEWAY, *OTHERS}


@pytest.mark.parametrize("name", ALL)
def test_a_flag_that_there_is_not_is_wrong_input(name: str) -> None:
    fails(seldon(name, "--nothing-of-the-kind"), 2)


@pytest.mark.parametrize("name", ALL)
def test_help_is_no_failure_and_shows_an_example(name: str) -> None:
    result = seldon(name, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    seldon {name}" in result.stdout


@pytest.mark.parametrize("name", KAFKA)
def test_without_a_broker_a_command_fails_on_one_line(name: str, file: str) -> None:
    arguments = [file if each == FILE else each for each in KAFKA[name]]
    result = seldon(name, *arguments, "--kafka-broker", "127.0.0.1:1")
    fails(result, 1)
    assert "no Kafka broker answers at 127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", KAFKA)
def test_a_namespace_that_cannot_be_is_wrong_input(name: str, file: str) -> None:
    arguments = [file if each == FILE else each for each in KAFKA[name]]
    fails(seldon(name, *arguments, "--namespace", "a.b"), 2)


@pytest.mark.parametrize("name", [*KAFKA, "up"])
def test_a_kafka_json_that_cannot_be_is_wrong_input(name: str, file: str, tmp_path: Path) -> None:
    path = tmp_path / "kafka.json"
    path.write_text('{"consumers": {}}')
    arguments = [file] if name == "up" else [file if each == FILE else each for each in KAFKA[name]]
    fails(seldon(name, *arguments, "--kafka-config-path", str(path)), 2)


@pytest.mark.parametrize("name", [*FILES, "status", "model unload", "model infer", "pipeline infer"])
def test_a_file_that_is_not_there_is_wrong_input(name: str, tmp_path: Path) -> None:
    arguments = ["m"] if name.endswith("infer") else []
    fails(seldon(name, *arguments, "-f", str(tmp_path / "none.yaml")), 2)


@pytest.mark.parametrize("name", ["up", "worker", "gateway", "pipeline graph", "pipeline try"])
def test_a_path_that_is_not_there_is_wrong_input(name: str, tmp_path: Path) -> None:
    data = ["--data", "{}"] if name == "pipeline try" else []
    fails(seldon(name, str(tmp_path / "none.yaml"), *data), 2)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_faults_is_wrong_input(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("kind: Pipe\n")
    fails(seldon(name, "-f", str(path)), 2)


def test_what_is_no_request_is_wrong_input(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PIPELINE)
    fails(seldon("pipeline try", str(path), "--data", "{"), 2)


@pytest.mark.parametrize("name", GATEWAY)
def test_without_a_gateway_a_call_fails_on_one_line(name: str) -> None:
    result = seldon(name, *GATEWAY[name], "--inference-host", "127.0.0.1:1")
    fails(result, 1)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", GATEWAY)
def test_a_gateway_that_is_no_address_is_wrong_input(name: str) -> None:
    fails(seldon(name, *GATEWAY[name], "--inference-host", "nowhere"), 2)


@pytest.mark.parametrize("name", [*KAFKA, "up"])
def test_a_variable_that_cannot_be_read_is_wrong_input(name: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELDON_KAFKA_PARTITIONS_DEFAULT", "many")
    arguments = [file] if name == "up" else [file if each == FILE else each for each in KAFKA[name]]
    fails(seldon(name, *arguments), 2)


@pytest.mark.parametrize("name", KAFKA)
def test_a_broker_that_is_empty_is_wrong_input(name: str, file: str) -> None:
    arguments = [file if each == FILE else each for each in KAFKA[name]]
    fails(seldon(name, *arguments, "--kafka-broker", ""), 2)


@pytest.mark.parametrize("name", [*FILES, "status", "model unload", "pipeline unload", "experiment stop"])
def test_an_empty_path_is_not_the_folder_that_we_are_in(name: str) -> None:
    fails(seldon(name, "-f", ""), 2)


@pytest.mark.parametrize("name", ["up", "worker", "gateway", "pipeline graph"])
def test_an_empty_path_among_others_is_wrong_input(name: str) -> None:
    fails(seldon(name, ""), 2)


def test_an_empty_name_takes_nothing_of_the_folder_away() -> None:
    result = seldon("pipeline unload", "", "--kafka-broker", "127.0.0.1:1")
    fails(result, 1)
    assert "no Kafka broker answers" in result.stderr


@pytest.mark.parametrize("name", GATEWAY)
def test_an_empty_name_is_called_by_nobody(name: str) -> None:
    result = seldon(name, "", *GATEWAY[name][1:])
    fails(result, 2)
    assert "NAME is empty" in result.stderr


@pytest.mark.parametrize("text", ["nothing", "=x", "a b=c", "x=a=b", "x=\u00e4", "x=a\r\nset-cookie: b"])
@pytest.mark.parametrize("mode", ["rest", "grpc"])
def test_a_header_that_cannot_be_is_wrong_input_told_on_one_line(text: str, mode: str) -> None:
    result = seldon("pipeline infer", "p", "{}", "--header", text, "--inference-mode", mode)
    fails(result, 2)
    assert "Badly formed header" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"inputs":1}', "[" * 3000])
def test_what_is_no_request_is_wrong_input_before_it_is_sent_by_grpc(text: str) -> None:
    fails(seldon("pipeline infer", "p", text, "--inference-mode", "grpc"), 2)


@pytest.mark.parametrize("name", KAFKA)
def test_an_error_stays_on_its_line_whatever_it_names(name: str, file: str) -> None:
    arguments = [file if each == FILE else each for each in KAFKA[name]]
    result = seldon(name, *arguments, "--namespace", "a\r\nError: b")
    fails(result, 2)
    assert len(result.stderr.splitlines()) == 1
