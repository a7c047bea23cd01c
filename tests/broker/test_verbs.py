"""What each verb of the command line prints, as a user sees it in a terminal: the files in `golden/`.

A line that begins with `$` is typed, what follows is printed: standard output as it is, standard error behind `2> `, an
exit code other than 0 in brackets. What differs from run to run (ids, times, ports) is masked. A new case is a new line
with `$`; REWRITE_GOLDEN=1 writes what is printed now into the files, for a reader to judge.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from product import Product

from engine.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = sorted(path.stem for path in GOLDEN.glob("*.txt"))
REWRITE = bool(os.environ.get("REWRITE_GOLDEN"))

NAMESPACE = "verbs"
# A new topic costs Apache Kafka a few ms for each of its partitions.
PARTITIONS = 2

# How many calls there were, where it is said for how long.
LASTING, COUNT = re.compile(r" infer .* (-t|--seconds) "), re.compile(r"(?<=::)[0-9]+")

MASKS = (
    (re.compile(r"\b[0-9a-v]{20}\b"), "ID"),
    (re.compile(r"\b20\d\d-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
    (re.compile(r"(?<=Date:\[)[^]]*"), "TIME"),
    (re.compile(r"(?<=Server:\[)[^]]*"), "SERVER"),
    (re.compile(r"(?<=127\.0\.0\.1:)[0-9]{2,5}\b"), "PORT"),
    # Those of other tests, if any.
    (re.compile(r'(; there are resources in "[^;]*|, nor in any other);'), "; OTHERS;"),
)

# Those that run until they are stopped or tell of times, with tests of their own; and what click prints.
OTHERS = {"up", "worker", "gateway", "top", "bench", "completion"}


# What is waited for differs from run to run, and so does whether it is waited for at all.
PROGRESS = "waiting for "

# Flags that many commands share, each typed with one of them; and one that goes on until Ctrl-C.
TYPED_ELSEWHERE = {
    "--kafka-broker",
    "--namespace",
    "--topic-prefix",
    "--kafka-config-path",
    "--inference-host",
    "--authority",
    "--follow",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name."""
    folder = tmp_path_factory.mktemp("verbs") / "files"
    shutil.copytree(GOLDEN / "files", folder)
    return folder


def _running(broker: str, folder: Path, files: Path) -> Iterator[Product]:
    product = Product(
        folder, "up", files / "up.yaml", "--kafka-broker", broker, "--listen", "127.0.0.1:0",
        "--namespace", NAMESPACE, "--partitions", PARTITIONS,
    )  # fmt: skip
    try:
        yield product.start()
        product.stop()
    finally:
        product.kill()


@pytest.fixture(scope="module")
def up_on_embedded(embedded_broker: str, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Product]:
    """`seldon up` with the models, pipelines and the experiment of `golden/files/up.yaml`, on the embedded broker."""
    yield from _running(embedded_broker, tmp_path_factory.mktemp("product"), files)


@pytest.fixture(scope="module")
def up_on_kafka(kafka_broker: str, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Product]:
    """The same on Apache Kafka."""
    yield from _running(kafka_broker, tmp_path_factory.mktemp("product"), files)


@pytest.fixture
def terminal(
    broker: str, request: pytest.FixtureRequest, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Terminal:
    """A terminal of a user whose shell names the broker and the gateway."""
    running: Product = request.getfixturevalue(f"up_on_{request.node.callspec.params['broker']}")
    assert running.running, f"the product has ended with {running.process.returncode}\n{running.said}"
    config = {
        "dataplane": {"inferHost": running.address},
        "kafka": {"bootstrap": broker, "namespace": NAMESPACE},
    }
    (files / "production.json").write_text(json.dumps(config))
    (files / "kafka.json").write_text(json.dumps({"bootstrap.servers": broker, "topicPrefix": "other"}))
    shell = {
        "HOME": str(tmp_path),
        "SELDON_KAFKA_BROKER": broker,
        "SELDON_INFER_HOST": running.address,
        "POD_NAMESPACE": NAMESPACE,
    }
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(files)
    return Terminal(files)


class Terminal:
    """Runs commands as they are typed, and keeps what is to be seen of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def play(self, script: str) -> str:
        """What a terminal shows when all that is typed in a script is typed again."""
        return "\n".join(self._shown(line) for line in script.splitlines() if line.startswith("$ "))

    def _shown(self, line: str) -> str:
        seldon, *words = shlex.split(line.removeprefix("$ "))
        assert seldon == "seldon"
        piped = None
        if "<" in words:
            *words, _, name = words
            piped = (self._folder / name).read_bytes()
        result = CliRunner().invoke(main, words, input=piped, prog_name="seldon")
        errors = [each for each in result.stderr.splitlines() if not each.startswith(PROGRESS)]
        told = [line, *result.stdout.splitlines(), *(f"2> {each}".rstrip() for each in errors)]
        if result.exit_code:
            told.append(f"[{result.exit_code}]")
        shown = self._masked("\n".join(told)) + "\n"
        return COUNT.sub("COUNT", shown) if LASTING.search(line) else shown

    def _masked(self, text: str) -> str:
        if str(self._folder) in text:
            # A column is as wide as the name of a temporary folder.
            text = re.sub(r" +\t", "\t", text.replace(str(self._folder), "FOLDER"))
        for mask, name in MASKS:
            text = mask.sub(name, text)
        return text


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_verb_prints_what_is_written_of_it(terminal: Terminal, script: str) -> None:
    path = GOLDEN / f"{script}.txt"
    shown = terminal.play(path.read_text())
    if REWRITE:
        path.write_text(shown)
    assert shown == path.read_text()


def verbs(group: click.Group, *names: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, *names, name)
        else:
            yield " ".join((*names, name)), command


VERBS = {name: command for name, command in verbs(main) if name not in OTHERS}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_typed_with_each_of_its_flags(verb: str) -> None:
    scripts = [(GOLDEN / f"{script}.txt").read_text() for script in SCRIPTS]
    typed = [line for text in scripts for line in text.splitlines() if f"{line} ".startswith(f"$ seldon {verb} ")]
    words = {word.partition("=")[0] for line in typed for word in line.split()} | TYPED_ELSEWHERE
    flags = [param for param in VERBS[verb].params if isinstance(param, click.Option) and not param.hidden]
    assert typed
    assert [flag.opts for flag in flags if not words & {*flag.opts, *flag.secondary_opts}] == []
