"""Files that are edited, added and removed under a running product."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from callers import Callers
from product import Product, get, infer, inputs, seldon, wait_until
from resource_files import add_step, copy, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Said

    SeldonUp = Callable[..., Product]

SAME = "def model(INPUT):\n    return {'OUTPUT': INPUT}\n"
NEGATIVE = "def model(INPUT):\n    return {'OUTPUT': -INPUT}\n"

TAKEN_UP = 30.0


@pytest.fixture
def command(broker: str, namespace: str) -> Callable[..., Said]:
    """Runs `seldon ...` against the test's broker and namespace."""
    return lambda *arguments: seldon(*arguments, "--kafka-broker", broker, "--namespace", namespace)


def says(running: Product, words: str, count: int = 1) -> str:
    """The line in which a product says something, once it has said it so often."""
    lines = wait_until(
        lambda: [] if len(found := [e for e in running.err.splitlines() if words in e]) < count else found,
        lambda: f"{words!r}, {count} times\n{running.said}",
        TAKEN_UP,
    )
    return str(lines[-1])


def answers(running: Product, pipeline: str, value: int) -> None:
    """Wait until a pipeline answers 3 with this value."""

    def good() -> bool:
        answer = infer(running.address, f"pipelines/{pipeline}", inputs(INPUT=[3]))
        return answer.status == 200 and answer.output("OUTPUT") == [value]

    wait_until(good, lambda: f"{pipeline} answers {value}\n{running.said}", TAKEN_UP)


def test_an_edited_file_is_swapped_under_load_with_no_call_lost(seldon_up: SeldonUp, tmp_path: Path) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path).start()
    with Callers(running.address) as callers:
        callers.some(1)
        add_step(path)
        says(running, 'loaded pipeline "numbers"')
        wait_until(
            lambda: any(answer.header("x-pipeline-version") == "2" for answer in callers.answers[-20:]),
            lambda: f"an answer of version 2; the last is {callers.answers[-1]}",
            TAKEN_UP,
        )
        callers.some(1)
    assert [str(answer) for answer in callers.answers if answer.status != 200] == []
    running.stop()


def test_files_are_added_to_a_folder_and_removed_while_other_pipelines_go_on(
    seldon_up: SeldonUp, tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path.parent).start()
    with Callers(running.address) as callers:
        callers.some(1)
        extra = copy(path, model="extra", pipeline="extras")
        answers(running, "extras", 3)
        extra.unlink()
        wait_until(lambda: get(running.address, "/v2/pipelines/extras/ready").status == 404, "unloaded", TAKEN_UP)
        callers.some(1)
    assert [str(answer) for answer in callers.answers if answer.status != 200] == []
    running.stop()


def test_a_broken_edit_is_told_on_one_line_and_the_old_version_goes_on(seldon_up: SeldonUp, tmp_path: Path) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path.parent).start()
    whole = path.read_text()
    path.write_text(whole.replace("steps:", "stpes:", 1))
    line = says(running, "goes on")
    assert line.startswith(f"{path}:13:3: "), line
    assert 'did you mean "steps"?' in line
    answers(running, "numbers", 3)
    path.write_text("")
    assert says(running, "the file is empty").startswith(f"{path}:1:1: ")
    answers(running, "numbers", 3)
    path.write_text(whole)
    extra = copy(path, model="extra", pipeline="extras")
    answers(running, "extras", 3)
    extra.unlink()
    says(running, "unloaded pipeline")
    assert 'unloaded pipeline "numbers"' not in running.err, running.said
    running.stop()


def test_a_file_that_is_written_in_pieces_is_taken_up_whole(seldon_up: SeldonUp, tmp_path: Path) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path.parent).start()
    add_step(path)
    text = path.read_text()
    pieces = [text[: len(text) // 3], text[len(text) // 3 : 2 * len(text) // 3], text[2 * len(text) // 3 :]]
    with path.open("w") as file:
        for piece in pieces:
            file.write(piece)
            file.flush()
            infer(running.address, "pipelines/numbers", inputs(INPUT=[3]))
    says(running, 'loaded pipeline "numbers"')
    assert "goes on" not in running.err, running.said
    assert "unloaded" not in running.err, running.said
    running.stop()


def test_a_mounted_config_map_is_taken_up_when_its_link_is_swapped(seldon_up: SeldonUp, tmp_path: Path) -> None:
    """As the kubelet does it: a new folder, and one renamed link to it; the files are links through that one."""
    mounted, source = tmp_path / "mounted", write(tmp_path / "source", SAME)
    module = next(source.parent.glob("*.py"))
    for number in (1, 2):
        (mounted / f"..{number}").mkdir(parents=True)
    (mounted / "..1" / source.name).write_text(source.read_text())
    (mounted / "..1" / module.name).write_text(SAME)
    (mounted / "..data").symlink_to("..1")
    for name in (source.name, module.name):
        (mounted / name).symlink_to(f"..data/{name}")
    running = seldon_up("up", mounted).start()
    answers(running, "numbers", 3)
    add_step(source)
    (mounted / "..2" / source.name).write_text(source.read_text())
    (mounted / "..2" / module.name).write_text("def model(INPUT):\n    return {'OUTPUT': 2 * INPUT}\n")
    (mounted / "..data_tmp").symlink_to("..2")
    (mounted / "..data_tmp").rename(mounted / "..data")
    answers(running, "numbers", 12)
    running.stop()


def test_a_module_that_is_edited_is_loaded_anew_and_a_broken_one_is_told_of(
    seldon_up: SeldonUp, tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    running = seldon_up("up", path).start()
    module = next(path.parent.glob("*.py"))
    with Callers(running.address) as callers:
        callers.some(1)
        module.write_text(NEGATIVE)
        callers.some(-1)
        module.write_text("def model(INPUT)\n")
        assert "SyntaxError" in says(running, "goes on")
        callers.some(-1)
        module.write_text(SAME)
        callers.some(1)
    assert [str(answer) for answer in callers.answers if answer.status != 200] == []
    running.stop()


def test_what_others_load_stays_until_the_file_is_edited(
    seldon_up: SeldonUp, command: Callable[..., Said], tmp_path: Path
) -> None:
    path, other = write(tmp_path / "first", SAME), write(tmp_path / "second", NEGATIVE)
    running = seldon_up("up", path.parent).start()
    assert command("load", "-f", other).code == 0
    answers(running, "numbers", -3)
    extra = copy(path, model="extra", pipeline="extras")
    answers(running, "extras", 3)
    answers(running, "numbers", -3)
    text = path.read_text()
    path.write_text(text.replace("spec:\n  storageUri", "spec:\n  replicas: 2\n  storageUri"))
    assert "it replaces version 2" in says(running, 'loaded model "number"')
    answers(running, "numbers", 3)
    assert command("load", "-f", other).code == 0
    answers(running, "numbers", -3)
    path.unlink()
    says(running, "what others have loaded under its name stays")
    answers(running, "numbers", -3)
    extra.unlink()
    says(running, 'unloaded pipeline "extras"')
    running.stop()


def test_two_workers_that_watch_one_folder_take_an_edit_up_once(
    seldon_up: SeldonUp, command: Callable[..., Said], tmp_path: Path
) -> None:
    path = write(tmp_path / "first", SAME)
    workers = [seldon_up("worker", path.parent) for _ in range(2)]
    for worker in workers:
        worker.start()
    add_step(path)
    wait_until(
        lambda: any('loaded pipeline "numbers"' in worker.err for worker in workers),
        lambda: "\n".join(worker.said for worker in workers),
        TAKEN_UP,
    )
    ready = command("pipeline", "status", "numbers", "-w", "PipelineReady", "-t", "30")
    assert json.loads(ready.out)["versions"][0]["pipeline"]["version"] == 2, ready
    for worker in workers:
        worker.stop()
