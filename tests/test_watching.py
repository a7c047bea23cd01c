"""What edited files call for, and when they are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.kafka.view import Loaded, View, key_of
from engine.resources import Problem, load
from engine.watching import Change, Rest, compare, named

if TYPE_CHECKING:
    from pathlib import Path

    from engine.resources import Resource

PIPELINE = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: NAME}
spec:
  steps: [{name: STEP}]
  output: {steps: [STEP]}
"""
EXPERIMENT = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Experiment
metadata: {name: NAME}
spec:
  resourceType: pipeline
  default: first
  candidates: [{name: first, weight: 50}, {name: second, weight: 50}]
"""


def pipeline(name: str, step: str = "double", feeds: str = "") -> str:
    text = PIPELINE.replace("NAME", name).replace("STEP", step)
    return text.replace("spec:", f"spec:\n  input: {{externalInputs: [{feeds}]}}") if feeds else text


class Files:
    """A folder that is watched, and what it held when it was looked at last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.view = folder, View()
        self.current: tuple[Resource, ...] = ()

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def look(self) -> Change:
        """What the files call for now, which is loaded then."""
        change = compare(self.current, *load([self.folder]), self.view)
        self.current = change.resources
        for each in change.loaded:
            self.view.resources[key_of(each)] = Loaded(key_of(each), each, 1, "")
        for each in change.removed:
            del self.view.resources[key_of(each)]
        return change


@pytest.fixture
def folder(tmp_path: Path) -> Files:
    return Files(tmp_path)


def names(resources: tuple[Resource, ...]) -> list[str]:
    return sorted(each.name for each in resources)


def messages(change: Change) -> list[str]:
    return [each.message for each in change.problems]


def test_files_that_are_as_they_were_call_for_nothing(folder: Files) -> None:
    folder.write("first.yaml", pipeline("first"))
    folder.look()
    change = folder.look()
    assert (change.loaded, change.removed, change.problems) == ((), (), ())


def test_only_what_is_edited_is_loaded(folder: Files) -> None:
    folder.write("both.yaml", f"{pipeline('first')}---\n{pipeline('second')}")
    folder.look()
    folder.write("both.yaml", f"# {'-' * 20}\n{pipeline('first')}---\n{pipeline('second', 'triple')}")
    change = folder.look()
    assert (names(change.loaded), names(change.removed)) == (["second"], [])


def test_a_file_that_is_added_is_loaded_and_one_that_is_removed_unloaded(folder: Files) -> None:
    path = folder.write("first.yaml", pipeline("first"))
    folder.look()
    path.unlink()
    folder.write("more/second.yaml", pipeline("second"))
    change = folder.look()
    assert (names(change.loaded), names(change.removed)) == (["second"], ["first"])


def test_a_file_with_a_fault_is_as_it_was_and_the_others_are_taken_up(folder: Files) -> None:
    folder.write("first.yaml", pipeline("first"))
    folder.write("second.yaml", pipeline("second"))
    folder.look()
    folder.write("first.yaml", pipeline("first", "triple").replace("output", "outptu"))
    folder.write("second.yaml", pipeline("second", "triple"))
    change = folder.look()
    assert (names(change.loaded), names(change.removed)) == (["second"], [])
    [problem] = change.problems
    assert (problem.place.line, problem.hint) == (6, 'did you mean "output"?')
    assert names(change.resources) == ["first", "second"]


@pytest.mark.parametrize("text", ["{", "spec: [", "\0", "a: b: c"])
def test_what_is_no_yaml_any_more_unloads_nothing(folder: Files, text: str) -> None:
    folder.write("first.yaml", pipeline("first"))
    folder.look()
    folder.write("first.yaml", pipeline("first") + text)
    change = folder.look()
    assert (change.loaded, change.removed) == ((), ())
    assert change.problems


def test_a_fault_that_is_mended_is_taken_up(folder: Files) -> None:
    folder.write("first.yaml", pipeline("first"))
    folder.look()
    folder.write("first.yaml", "spec: [")
    folder.look()
    folder.write("first.yaml", pipeline("first", "triple"))
    change = folder.look()
    assert (names(change.loaded), change.problems) == (["first"], ())


def test_a_folder_that_is_gone_unloads_nothing(folder: Files, tmp_path: Path) -> None:
    folder.folder = tmp_path / "mounted"
    folder.write("first.yaml", pipeline("first"))
    folder.look()
    folder.folder.rename(tmp_path / "elsewhere")
    change = folder.look()
    assert (change.removed, messages(change)) == ((), ["no such file or folder"])
    assert names(change.resources) == ["first"]


def test_what_another_file_needs_stays_when_its_own_is_gone(folder: Files) -> None:
    path = folder.write("first.yaml", pipeline("first"))
    folder.write("fed.yaml", pipeline("fed", feeds="first"))
    folder.look()
    path.unlink()
    change = folder.look()
    assert change.removed == ()
    [problem] = change.problems
    assert problem.place.file.endswith("fed.yaml")
    folder.write("fed.yaml", pipeline("fed"))
    later = folder.look()
    assert (names(later.loaded), names(later.removed), later.problems) == (["fed"], ["first"], ())


def test_a_new_name_is_loaded_although_others_still_need_the_old_one(folder: Files) -> None:
    folder.write("first.yaml", pipeline("first"))
    folder.write("fed.yaml", pipeline("fed", feeds="first"))
    folder.look()
    folder.write("first.yaml", pipeline("primo"))
    change = folder.look()
    assert (names(change.loaded), change.removed, len(change.problems)) == (["primo"], (), 1)


def test_a_reference_to_nothing_leaves_its_file_as_it_was(folder: Files) -> None:
    folder.write("first.yaml", pipeline("first"))
    folder.look()
    folder.write("first.yaml", pipeline("first", feeds="nobody"))
    folder.write("second.yaml", pipeline("second"))
    change = folder.look()
    assert (names(change.loaded), len(change.problems)) == (["second"], 1)


def test_a_resource_that_moves_to_another_file_of_its_folder_is_not_loaded_anew(folder: Files) -> None:
    path = folder.write("first.yaml", pipeline("first"))
    folder.look()
    path.rename(path.with_name("renamed.yaml"))
    change = folder.look()
    assert (change.loaded, change.removed, change.problems) == ((), (), ())
    assert change.resources[0].document.file.endswith("renamed.yaml")


def test_a_resource_that_moves_to_another_folder_is_loaded_from_there(folder: Files) -> None:
    path = folder.write("first.yaml", pipeline("first"))
    folder.look()
    path.unlink()
    folder.write("other/first.yaml", pipeline("first"))
    change = folder.look()
    assert (names(change.loaded), change.removed) == (["first"], ())
    assert named(change.loaded).folders["pipeline", "first"].endswith("other")


def test_a_second_resource_of_a_name_does_not_take_the_place_of_the_first(folder: Files) -> None:
    folder.write("b.yaml", pipeline("first"))
    folder.look()
    folder.write("a.yaml", pipeline("first", "triple"))
    change = folder.look()
    assert (change.loaded, len(change.problems)) == ((), 1)


def test_a_second_experiment_on_a_default_is_refused(folder: Files) -> None:
    folder.write("pipelines.yaml", f"{pipeline('first')}---\n{pipeline('second')}")
    folder.write("a.yaml", EXPERIMENT.replace("NAME", "one"))
    folder.look()
    folder.write("b.yaml", EXPERIMENT.replace("NAME", "two"))
    change = folder.look()
    assert (change.loaded, len(change.problems)) == ((), 1)


def test_what_others_have_unloaded_does_not_stand_against_an_edit(folder: Files) -> None:
    folder.write("first.yaml", pipeline("first"))
    folder.write("fed.yaml", pipeline("fed", feeds="elsewhere"))
    folder.view.resources["pipeline", "elsewhere"] = Loaded(
        ("pipeline", "elsewhere"), load_one(folder, pipeline("elsewhere")), 1, ""
    )
    assert names(folder.look().loaded) == ["fed", "first"]
    del folder.view.resources["pipeline", "elsewhere"]
    folder.write("first.yaml", pipeline("first", "triple"))
    change = folder.look()
    assert (names(change.loaded), change.problems) == (["first"], ())


def load_one(folder: Files, text: str) -> Resource:
    path = folder.folder.parent / f"{folder.folder.name}-elsewhere.yaml"
    path.write_text(text)
    [found] = load([path])[0].pipelines
    return found


def test_a_problem_is_told_on_one_line_with_its_place(folder: Files) -> None:
    path = folder.write("first.yaml", pipeline("first").replace("output", "outptu"))
    [problem] = folder.look().problems
    assert isinstance(problem, Problem)
    assert problem.line == (f'{path}:6:3: pipeline "first" has an unknown field "outptu" (did you mean "output"?)')


def test_what_changes_is_still_from_the_second_look_on() -> None:
    rest = Rest("old")
    assert [rest.look("new", 10.0), rest.look("new", 10.5), rest.look("new", 12.0)] == [0.0, 0.5, 2.0]


def test_each_change_begins_the_wait_anew() -> None:
    rest = Rest("old")
    rest.look("half", 10.0)
    assert [rest.look("whole", 11.0), rest.look("whole", 11.5)] == [0.0, 0.5]


def test_what_was_taken_up_is_no_news_and_what_comes_back_to_it_neither() -> None:
    rest = Rest("old")
    assert rest.look("old", 10.0) == 0.0
    rest.look("new", 11.0)
    assert rest.look("old", 11.5) == 0.0
    assert rest.look("old", 13.0) == 0.0
    rest.look("new", 14.0)
    rest.take()
    assert rest.look("new", 15.0) == 0.0
