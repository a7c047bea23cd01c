"""Modules beside a resource file that change while others have them."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import RuntimeUnavailable
from engine.runtimes import modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def name() -> str:
    """A module's name that nobody has."""
    return f"module_{secrets.token_hex(6)}"


@pytest.fixture(autouse=True)
def _search_path() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path = path


@pytest.fixture
def find(name: str, tmp_path: Path) -> Callable[[], Any]:
    """The function `model` of the module as it is on the disk."""
    return lambda: modules.find("number", name, "model", tmp_path)


def write(folder: Path, name: str, value: object, before: str = "") -> None:
    # Of another length each time: two changes may fall into one tick of the disk's clock.
    (folder / f"{name}.py").write_text(
        f"{before}\ndef model():\n    return {value}\n# {'-' * secrets.randbelow(10_000)}\n"
    )


def test_a_module_that_has_not_changed_is_imported_once(find: Callable[[], Any], tmp_path: Path, name: str) -> None:
    write(tmp_path, name, 1)
    assert find() is find()


def test_a_module_that_has_changed_is_imported_anew_and_who_has_the_old_one_keeps_it(
    find: Callable[[], Any], tmp_path: Path, name: str
) -> None:
    write(tmp_path, name, 1)
    old = find()
    write(tmp_path, name, 2)
    assert (find()(), old()) == (2, 1)


@pytest.mark.parametrize("where", ["while it is imported", "when it is called"])
def test_a_module_that_it_imports_is_imported_anew_with_it(
    find: Callable[[], Any], tmp_path: Path, name: str, where: str
) -> None:
    helper = f"{name}_helper"
    statement = f"import {helper}\n"
    if where == "while it is imported":
        write(tmp_path, name, f"{helper}.model()", statement)
    else:
        (tmp_path / f"{name}.py").write_text(f"def model():\n    {statement}    return {helper}.model()\n")
    write(tmp_path, helper, 1)
    assert find()() == 1
    write(tmp_path, helper, 2)
    assert find()() == 2


def test_a_change_that_cannot_be_imported_leaves_what_was_there(
    find: Callable[[], Any], tmp_path: Path, name: str
) -> None:
    helper = f"{name}_helper"
    write(tmp_path, helper, 1)
    (tmp_path / f"{name}.py").write_text(
        f"import {helper}\ndef model():\n    import {helper}\n    return {helper}.model()\n"
    )
    old, module = find(), sys.modules[name]
    (tmp_path / f"{name}.py").write_text(f"import {helper}\ndef model(:\n")
    with pytest.raises(RuntimeUnavailable, match="SyntaxError"):
        find()
    assert sys.modules[name] is module
    assert old() == 1
    write(tmp_path, name, 3)
    assert find()() == 3


def test_packages_are_imported_anew_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    write(tmp_path / name, "inner", 1)
    (tmp_path / name / "outer.py").write_text("from .inner import model\n")
    assert modules.find("number", f"{name}.outer", "model", tmp_path)() == 1
    write(tmp_path / name, "inner", 2)
    assert modules.find("number", f"{name}.outer", "model", tmp_path)() == 2


def test_modules_of_one_name_in_two_folders_change_apart(tmp_path: Path, name: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, value in ((first, 1), (second, 2)):
        folder.mkdir()
        write(folder, f"{name}_helper", value)
        write(folder, name, f"{name}_helper.model()", f"import {name}_helper\n")
    assert [modules.find("number", name, "model", folder)() for folder in (first, second)] == [1, 2]
    write(second, f"{name}_helper", 3)
    assert [modules.find("number", name, "model", folder)() for folder in (first, second)] == [1, 3]
    write(first, f"{name}_helper", 4)
    assert [modules.find("number", name, "model", folder)() for folder in (first, second)] == [4, 3]


def test_what_was_imported_before_by_others_is_left_alone(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, 1)
    other = f"{name}_of_others"
    write(tmp_path, other, 1)
    sys.path = [*sys.path, str(tmp_path)]
    theirs = __import__(other)
    assert modules.find("number", name, "model", tmp_path)() == 1
    write(tmp_path, other, 2)
    write(tmp_path, name, 2)
    assert modules.find("number", name, "model", tmp_path)() == 2
    assert sys.modules[other] is theirs
