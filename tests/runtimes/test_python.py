from __future__ import annotations

import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.errors import InvalidInput, ModelFailed, RuntimeUnavailable
from engine.runtimes import modules, python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from engine.runtimes.function import Function


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    """What a test imports is gone after it."""
    found, path = dict(sys.modules), list(sys.path)
    yield
    for name in sys.modules.keys() - found.keys():
        del sys.modules[name]
    sys.modules.update(found)
    sys.path[:] = path
    modules._put_away.clear()
    importlib.invalidate_caches()


def write(folder: Path, **files: str) -> Path:
    """Python files by their names; two underscores are a folder."""
    for name, text in files.items():
        file = folder.joinpath(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def call(folder: Path, uri: str, arrays: Mapping[str, Any] | None = None) -> list[tuple[str, Any]]:
    found = python.load("m", uri, folder, {}).call(arrays or {})
    return [(name, array.tolist()) for name, array in found]


def says(text: str) -> str:
    """A model whose answer is this expression."""
    return f"def f():\n    return {{'y': {text}}}\n"


def why_not(folder: Path, uri: str) -> str:
    with pytest.raises(RuntimeUnavailable) as caught:
        python.load("m", uri, folder, {})
    return caught.value.reason


def test_a_function_takes_tensors_by_name(tmp_path: Path) -> None:
    write(tmp_path, add="def f(a, b):\n    return {'sum': a + b}\n")
    loaded = python.load("m", "python:add:f", tmp_path, {})
    assert loaded.inputs == ("a", "b")
    assert [(n, v.tolist()) for n, v in loaded.call({"b": np.array([2]), "a": np.array([1])})] == [("sum", [3])]


def test_a_function_of_any_tensors_takes_any(tmp_path: Path) -> None:
    write(tmp_path, echo="def f(**tensors):\n    return tensors\n")
    assert python.load("m", "python:echo:f", tmp_path, {}).inputs is None


def test_a_class_is_made_loaded_and_asked(tmp_path: Path) -> None:
    text = (
        "class C:\n    def load(self):\n        self.n = 5\n    def infer(self, x):\n        return {'y': x + self.n}\n"
    )
    write(tmp_path, cls=text)
    assert call(tmp_path, "python:cls:C", {"x": np.array([1])}) == [("y", [6])]


@pytest.mark.parametrize("given", ["None", "[1]", "[]", "(1, 2)"])
def test_what_is_no_dict_of_outputs_is_the_models_failure(tmp_path: Path, given: str) -> None:
    write(tmp_path, wrong=f"def f():\n    return {given}\n")
    with pytest.raises(ModelFailed, match="it must give a dict of output names to arrays"):
        call(tmp_path, "python:wrong:f")


def test_a_dict_without_outputs_is_the_models_failure_and_told_as_empty(tmp_path: Path) -> None:
    write(tmp_path, wrong="def f():\n    return {}\n")
    with pytest.raises(ModelFailed, match=r'^model "m" gave an empty dict; it must give at least one output$'):
        call(tmp_path, "python:wrong:f")


@pytest.mark.parametrize(("given", "kind"), [("None", "NoneType"), ("[{}]", "dict"), ("{1}", "set")])
def test_outputs_that_cannot_be_sent_are_the_models_failure(tmp_path: Path, given: str, kind: str) -> None:
    write(tmp_path, wrong=says(given))
    with pytest.raises(ModelFailed, match=f'output "y" holds {kind}; numbers, text and bytes can be sent'):
        call(tmp_path, "python:wrong:f")


def test_a_refusal_passes_through(tmp_path: Path) -> None:
    write(tmp_path, refuses="from engine.errors import InvalidInput\ndef f():\n    raise InvalidInput('no')\n")
    with pytest.raises(InvalidInput, match="no"):
        call(tmp_path, "python:refuses:f")


def test_a_module_that_is_nowhere_is_told_with_the_folder(tmp_path: Path) -> None:
    reason = why_not(tmp_path, "python:nowhere_at_all:f")
    assert reason == (
        f"No module named 'nowhere_at_all'; it must be installed, or stand beside the resource file in {tmp_path}"
    )


def test_an_attribute_that_is_not_there_is_told(tmp_path: Path) -> None:
    write(tmp_path, empty="")
    assert "has no attribute 'f'" in why_not(tmp_path, "python:empty:f")


def test_a_module_that_raises_is_told(tmp_path: Path) -> None:
    write(tmp_path, raises="1 / 0\n")
    assert why_not(tmp_path, "python:raises:f") == "importing raises raised ZeroDivisionError: division by zero"


def test_a_module_that_exits_is_told(tmp_path: Path) -> None:
    write(tmp_path, exits="raise SystemExit(1)\n")
    assert why_not(tmp_path, "python:exits:f") == "importing exits raised SystemExit: 1"


def test_a_module_that_raised_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, raises="1 / 0\n")
    why_not(tmp_path, "python:raises:f")
    write(tmp_path, raises=says("'mended now'"))
    assert call(tmp_path, "python:raises:f") == [("y", "mended now")]


REFUSED = {
    "a value": ("f = 5\n", "is no function, and no class with an `infer`"),
    "a class without infer": ("class f: pass\n", "is no function, and no class with an `infer`"),
    "positional parameters": ("def f(x, /): pass\n", "cannot be called with tensors by their names"),
    "any number of parameters": ("def f(*x): pass\n", "cannot be called with tensors by their names"),
    "no signature": ("f = max\n", "cannot be called with tensors by their names"),
    "a class that cannot be made": ("class f:\n    def __init__(self, x): pass\n", "loading raised TypeError"),
    "a load that raises": ("class f:\n    def load(self): 1 / 0\n", "loading raised ZeroDivisionError"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_called_is_refused_at_load(tmp_path: Path, case: str) -> None:
    text, reason = REFUSED[case]
    write(tmp_path, bad=text)
    assert reason in why_not(tmp_path, "python:bad:f")


def test_a_module_of_python_itself_is_no_model(tmp_path: Path) -> None:
    assert why_not(tmp_path, "python:os:getcwd") == '"os" is a module of Python itself and not a model'


def test_a_uri_without_an_attribute_is_refused(tmp_path: Path) -> None:
    assert why_not(tmp_path, "python:models") == '"python:models" is not of the form python:PACKAGE.MODULE:ATTRIBUTE'


def test_an_installed_module_is_found(tmp_path: Path) -> None:
    sys.path.append(str(write(tmp_path / "site", models=says("'installed'"))))
    assert call(write(tmp_path / "here", others=""), "python:models:f") == [("y", "installed")]


def test_a_module_beside_the_resource_file_wins_over_one_on_the_search_path(tmp_path: Path) -> None:
    sys.path.insert(0, str(write(tmp_path / "site", models=says("'elsewhere'"))))
    assert call(write(tmp_path / "here", models=says("'beside'")), "python:models:f") == [("y", "beside")]


def test_a_module_beside_the_resource_file_wins_over_one_that_is_imported(tmp_path: Path) -> None:
    sys.path.insert(0, str(write(tmp_path / "site", models=says("'elsewhere'"))))
    there = importlib.import_module("models")
    assert call(write(tmp_path / "here", models=says("'beside'")), "python:models:f") == [("y", "beside")]
    assert sys.modules["models"] is there


def test_two_folders_may_each_hold_a_module_of_one_name(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, models=says(repr(name))) for name in ("one", "two"))
    answers = [call(folder, "python:models:f") for folder in (one, two, one, two)]
    assert answers == [[("y", "one")], [("y", "two")]] * 2


def test_two_models_of_one_module_share_it(tmp_path: Path) -> None:
    text = "seen = []\ndef f():\n    seen.append(1)\n    return {'y': len(seen)}\ng = f\n"
    one, two = (write(tmp_path / name, models=text) for name in ("one", "two"))
    for folder in (one, two):
        counted = [call(folder, f"python:models:{name}") for name in ("f", "g")]
        assert counted == [[("y", 1)], [("y", 2)]]


def test_a_module_finds_its_siblings_though_others_of_their_name_are_there(tmp_path: Path) -> None:
    text = "from helper import WORD\n" + says("WORD")
    one, two = (write(tmp_path / name, models=text, helper=f"WORD = '{name}'\n") for name in ("one", "two"))
    assert [call(folder, "python:models:f") for folder in (one, two, one)] == [
        [("y", "one")],
        [("y", "two")],
        [("y", "one")],
    ]


def test_a_sibling_is_imported_once(tmp_path: Path) -> None:
    write(tmp_path / "one", models=says("1"), helper="seen = []\n")
    text = "import helper\ndef f():\n    helper.seen.append(1)\n    return {'y': len(helper.seen)}\n"
    call(write(tmp_path / "one", models=text), "python:models:f")
    two = write(tmp_path / "two", models=text, others=text, helper="seen = []\n")
    assert [call(two, uri) for uri in ("python:models:f", "python:others:f")] == [[("y", 1)], [("y", 2)]]


def test_packages_beside_each_resource_file_are_kept_apart(tmp_path: Path) -> None:
    one, two = (
        write(
            tmp_path / name,
            pack__word=f"WORD = '{name}'\n",
            pack__models="from .word import WORD\nfrom pack.word import WORD as SAME\n" + says("WORD + SAME"),
        )
        for name in ("one", "two")
    )
    for folder in (one, two):
        (folder / "pack" / "__init__.py").write_text("")
    assert [call(folder, "python:pack.models:f") for folder in (one, two)] == [[("y", "oneone")], [("y", "twotwo")]]


def test_a_folder_of_modules_is_a_package(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, pack__models=says(repr(name))) for name in ("one", "two"))
    assert [call(folder, "python:pack.models:f") for folder in (one, two)] == [[("y", "one")], [("y", "two")]]


def test_a_folder_of_data_does_not_hide_a_package(tmp_path: Path) -> None:
    sys.path.append(str(write(tmp_path / "site", artefacts__models=says("'installed'"))))
    (tmp_path / "here" / "artefacts").mkdir(parents=True)
    assert call(tmp_path / "here", "python:artefacts.models:f") == [("y", "installed")]


def test_a_sibling_never_replaces_the_engine_or_python(tmp_path: Path) -> None:
    text = "import engine.errors, json\n" + says("engine.errors.__name__ + json.__name__")
    write(tmp_path, models=text, engine="1 / 0\n", json="1 / 0\n")
    assert call(tmp_path, "python:models:f") == [("y", "engine.errorsjson")]


def test_the_search_path_is_left_as_it_was_but_for_the_folder_at_its_end(tmp_path: Path) -> None:
    before = list(sys.path)
    call(write(tmp_path, models=says("1")), "python:models:f")
    assert sys.path == [*before, str(tmp_path)]


def test_parameters_with_defaults_may_be_left_out() -> None:
    assert python._parameters(lambda a, b=None: {"y": a, "z": b}) == (("a",), ("b",))


ASYNC_MODEL = """
import asyncio


class Model:
    async def load(self):
        self.loop, self.both = asyncio.get_running_loop(), asyncio.Event()
        self.calls = 0

    async def infer(self, x):
        assert asyncio.get_running_loop() is self.loop
        self.calls += 1
        if self.calls == 2:
            self.both.set()
        await asyncio.wait_for(self.both.wait(), 10)
        return {"y": x + 1}
"""


def test_an_async_function_is_awaited(tmp_path: Path) -> None:
    write(tmp_path, slow="import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return {'y': x + 1}\n")
    loaded = python.load("m", "python:slow:f", tmp_path, {})
    try:
        assert [(name, array.tolist()) for name, array in loaded.call({"x": np.array([1])})] == [("y", [2])]
    finally:
        close(loaded)


def test_coroutines_of_a_model_run_on_one_loop_at_the_same_time(tmp_path: Path) -> None:
    write(tmp_path, slow=ASYNC_MODEL)
    loaded = python.load("m", "python:slow:Model", tmp_path, {})
    try:
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda number: loaded.call({"x": np.array([number])}), (1, 2)))
    finally:
        close(loaded)
    assert [[(name, array.tolist()) for name, array in answer] for answer in answers] == [[("y", [2])], [("y", [3])]]


def test_a_models_loop_ends_with_it(tmp_path: Path) -> None:
    write(tmp_path, slow="import threading\nasync def f():\n    return {'y': threading.current_thread().name}\n")
    loaded = python.load("named", "python:slow:f", tmp_path, {})
    [(_, name)] = loaded.call({})
    assert name.tolist() in [thread.name for thread in threading.enumerate()]
    close(loaded)
    assert name.tolist() not in [thread.name for thread in threading.enumerate()]


def close(loaded: Function) -> None:
    assert loaded.close is not None
    loaded.close()


def test_parameters_reach_the_class(tmp_path: Path) -> None:
    text = "class M:\n    def __init__(self, by='2'):\n        self.by = int(by)\n"
    write(tmp_path, scale=text + "    def infer(self, x):\n        return {'y': x * self.by}\n")
    for parameters, wanted in (({"by": "5"}, [10]), ({}, [4])):
        loaded = python.load("m", "python:scale:M", tmp_path, parameters)
        assert loaded.call({"x": np.array([2])})[0][1].tolist() == wanted


def test_a_parameter_that_the_class_does_not_take_is_told(tmp_path: Path) -> None:
    write(tmp_path, scale="class M:\n    def infer(self, x):\n        return {'y': x}\n")
    with pytest.raises(RuntimeUnavailable, match="loading raised TypeError"):
        python.load("m", "python:scale:M", tmp_path, {"by": "5"})


def test_a_parameter_that_nothing_takes_is_told(tmp_path: Path) -> None:
    write(tmp_path, scale="def f(x):\n    return {'y': x}\n")
    with pytest.raises(RuntimeUnavailable, match='is no class, so nothing takes the parameter "by"'):
        python.load("m", "python:scale:f", tmp_path, {"by": "5"})
