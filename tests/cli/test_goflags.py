"""Arguments as the reference's scripts write them, in click's dialect."""

from __future__ import annotations

import click
import pytest

from engine.cli import main
from engine.cli.goflags import for_click


def parameters(*names: str) -> list[click.Parameter]:
    command: click.Command = main
    for name in names:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command.params


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("-r=true", ["-r"]),
        ("--show-request=1", ["-r"]),
        ("--show-headers=T", ["--show-headers"]),
        ("-r=false", []),
        ("-o=true", ["-o"]),
        ("-o=False", ["--no-show-response"]),
        ("--show-response=0", ["--no-show-response"]),
        ("-i=10", ["-i10"]),
        ("--iterations=10", ["--iterations=10"]),
        ("-f=a=b.json", ["-fa=b.json"]),
        ("--header=X-foo=bar", ["--header=X-foo=bar"]),
        ("-o=perhaps", ["-o=perhaps"]),
        ("name=value", ["name=value"]),
        ("-q=1", ["-q=1"]),
    ],
)
def test_a_flag_is_read_as_it_is_meant(written: str, read: list[str]) -> None:
    assert for_click(parameters("pipeline", "infer"), [written]) == read


def test_what_stands_behind_two_dashes_is_left_alone() -> None:
    assert for_click(parameters("pipeline", "infer"), ["-r=false", "--", "-r=false"]) == ["--", "-r=false"]


def test_every_command_takes_them() -> None:
    assert for_click(parameters("experiment", "status"), ["-w=true", "-t=3", "--force=true"]) == [
        "-w",
        "-t3",
        "--force",
    ]
