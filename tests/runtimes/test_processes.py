"""Models in processes of their own, which are real ones here."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.errors import InvalidInput, ModelFailed, RuntimeUnavailable, TimedOut
from engine.runtimes import processes, python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.runtimes.function import Function

SOURCE = """
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from engine.errors import InvalidInput


class Refused(InvalidInput):
    pass


class Model:
    def __init__(self, marks="", load="well"):
        self.marks = Path(marks)
        if load == "badly":
            raise ValueError("no weights")
        if load == "fatally":
            os._exit(7)
        if load == "slowly":
            time.sleep(60)

    def infer(self, do, times=0):
        getattr(self, do[0].decode())()
        return {"pid": np.array([os.getpid()]), "given": np.array([do.flags.writeable])}

    def well(self):
        pass

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def leave(self):
        sys.exit(3)

    def crash_once(self):
        mark = self.marks / "crashed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        time.sleep(60)

    def refuse(self):
        raise Refused("not this")

    def fail(self):
        raise ZeroDivisionError("by zero")
"""

LONG = 30.0


@contextmanager
def served(
    folder: Path, count: int = 1, *, timeout: float = LONG, load_timeout: float = LONG, **parameters: str
) -> Iterator[Function]:
    """The model above in so many processes."""
    (folder / "crashing.py").write_text(SOURCE)
    load = partial(python.load, "m", "python:crashing:Model", folder, {"marks": str(folder), **parameters})
    function = processes.load("m", load, count, load_timeout=load_timeout, timeout=timeout)
    try:
        yield function
    finally:
        assert function.close is not None
        function.close()


def ask(function: Function, do: str) -> dict[str, Any]:
    return {name: array.tolist() for name, array in function.call({"do": np.array([do.encode()], dtype=object)})}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_calls_are_computed_elsewhere_by_one_process_after_the_other_call(tmp_path: Path) -> None:
    with served(tmp_path) as function:
        first, second = ask(function, "well"), ask(function, "well")
    assert first == second
    assert first["pid"] != [os.getpid()]


def test_what_is_known_of_the_model_is_known_here(tmp_path: Path) -> None:
    with served(tmp_path) as function:
        assert (function.inputs, function.optional, function.platform) == (("do",), ("times",), "python")


def test_arrays_are_read_only_there_too(tmp_path: Path) -> None:
    with served(tmp_path) as function:
        assert ask(function, "well")["given"] == [False]


def test_a_process_that_dies_costs_one_more_call(tmp_path: Path) -> None:
    with served(tmp_path) as function:
        before = ask(function, "well")
        after = ask(function, "crash_once")
    assert after["pid"] != before["pid"]


def test_a_request_that_ends_every_process_fails_and_the_next_is_answered(tmp_path: Path) -> None:
    with served(tmp_path) as function:
        with pytest.raises(ModelFailed, match="its process ended 3 times with this request, at last by SIGSEGV"):
            ask(function, "crash")
        assert ask(function, "well")


def test_a_process_that_is_ended_while_nobody_calls_is_not_noticed(tmp_path: Path) -> None:
    with served(tmp_path) as function:
        [pid] = ask(function, "well")["pid"]
        os.kill(pid, signal.SIGKILL)
        assert ask(function, "well")["pid"] != [pid]


def test_a_call_that_hangs_ends_with_its_process(tmp_path: Path) -> None:
    with served(tmp_path, timeout=0.5) as function:
        [pid] = ask(function, "well")["pid"]
        with pytest.raises(TimedOut, match=r'model "m" gave no answer in 0\.5 s'):
            ask(function, "hang")
        assert gone(pid)
    with served(tmp_path) as function:
        assert ask(function, "well")


def test_a_refusal_stays_one_whatever_kind_the_model_made_of_it(tmp_path: Path) -> None:
    with served(tmp_path) as function, pytest.raises(InvalidInput, match="not this"):
        ask(function, "refuse")


@pytest.mark.parametrize(("do", "text"), [("fail", "ZeroDivisionError: by zero"), ("leave", "SystemExit: 3")])
def test_whatever_a_model_raises_is_its_failure(tmp_path: Path, do: str, text: str) -> None:
    with served(tmp_path) as function:
        [pid] = ask(function, "well")["pid"]
        with pytest.raises(ModelFailed, match=text):
            ask(function, do)
        assert ask(function, "well")["pid"] == [pid]


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        ("badly", "loading raised ValueError: no weights"),
        ("fatally", "its process ended with exit status 7 while it loaded"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path, load: str, reason: str) -> None:
    with pytest.raises(RuntimeUnavailable) as caught, served(tmp_path, load=load):
        pass
    assert caught.value.reason == reason


def test_a_model_that_never_loads_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeUnavailable, match=r"it did not load in 0\.5 s"),
        served(tmp_path, load="slowly", load_timeout=0.5),
    ):
        pass


def test_each_process_has_a_copy_and_all_end_together(tmp_path: Path) -> None:
    with served(tmp_path, 3) as function:
        pids = {ask(function, "well")["pid"][0] for _ in range(6)}
    assert len(pids) == 3
    assert all(map(gone, pids))
