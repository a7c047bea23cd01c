from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.errors import InvalidInput, ModelFailed, RequestError, RuntimeUnavailable, TimedOut, Unreachable
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec, encode_parameters
from engine.protocol.messages import InferParameter
from engine.runtimes import inprocess
from engine.runtimes.function import Function
from engine.runtimes.inprocess import InProcessRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.runtimes.contract import Part
    from engine.runtimes.function import Arrays

Outcome = list[tuple[str, str, tuple[int, ...], bytes]]


def columns(*rows: Any, datatype: str = "FP64", name: str = "x") -> Columns:
    """Each row is one request's tensor; all have one shape."""
    array = np.array(rows, dtype=tensors.DATATYPES[datatype].dtype)
    array.flags.writeable = False
    return Columns(ids(len(rows)), (TensorSpec(name, datatype, array.shape[1:]),), (array,))


def ids(count: int) -> list[bytes]:
    return [b"id%d" % row for row in range(count)]


def texts(*rows: Sequence[bytes]) -> Columns:
    cells = [tensors.join_bytes(row) for row in rows]
    return Columns(ids(len(rows)), (TensorSpec("x", "BYTES", (len(rows[0]),)),), (cells,))


def function(call: Callable[[Arrays], Any], inputs: tuple[str, ...] | None = None) -> Function:
    return Function(lambda arrays: list(call(arrays).items()), inputs, "test")


async def infer(
    call: Callable[[Arrays], Any], asked: Columns, *, max_rows: int | None = None, threads: int = 2
) -> list[Outcome | RequestError]:
    """What each row is answered, in the order of the rows."""
    runtime = InProcessRuntime("m", lambda: function(call), max_rows=max_rows, threads=threads)
    await runtime.load()
    found: dict[int, Outcome | RequestError] = {}
    async for part in runtime.infer(asked, [()] * len(asked), 5.0):
        for place, row in enumerate(part.rows):
            assert row not in found
            found[row] = read(part, place, asked.ids[row])
    await runtime.unload()
    assert sorted(found) == list(range(len(asked)))
    return [found[row] for row in range(len(asked))]


def read(part: Part, place: int, row_id: bytes) -> Outcome | RequestError:
    if isinstance(part.outcome, RequestError):
        return part.outcome
    assert part.outcome.ids[place] == row_id
    outcome: Outcome = []
    for spec, cells in zip(part.outcome.specs, part.outcome.cells, strict=True):
        raw = cells[place] if isinstance(cells, list) else cells[place].tobytes()
        outcome.append((spec.name, spec.datatype, spec.shape, raw))
    return outcome


def values(found: list[Outcome | RequestError]) -> list[Any]:
    """The first output of each row as numbers, errors as their text."""
    shown: list[Any] = []
    for outcome in found:
        if isinstance(outcome, RequestError):
            shown.append(str(outcome))
            continue
        _, datatype, shape, raw = outcome[0]
        shown.append(tensors.array_of(raw, tensors.DATATYPES[datatype], shape).tolist())
    return shown


def double(arrays: Arrays) -> dict[str, Any]:
    return {"y": arrays["x"] * 2}


async def test_each_request_is_a_call_of_its_own_without_stacking() -> None:
    shapes = []

    def call(arrays: Arrays) -> dict[str, Any]:
        shapes.append(arrays["x"].shape)
        return double(arrays)

    assert values(await infer(call, columns([1, 2], [3, 4]))) == [[2, 4], [6, 8]]
    assert shapes == [(2,), (2,)]


async def test_requests_are_stacked_up_to_so_many_rows() -> None:
    shapes = []

    def call(arrays: Arrays) -> dict[str, Any]:
        shapes.append(arrays["x"].shape)
        return double(arrays)

    found = await infer(call, columns(*[[[row], [row]] for row in range(5)]), max_rows=4, threads=1)
    assert values(found) == [[[2 * row], [2 * row]] for row in range(5)]
    assert shapes == [(4, 1), (4, 1), (2, 1)]


async def test_a_request_with_more_rows_than_a_stack_takes_is_a_call_of_its_own() -> None:
    shapes = []

    def call(arrays: Arrays) -> dict[str, Any]:
        shapes.append(arrays["x"].shape)
        return double(arrays)

    await infer(call, columns([1, 2, 3], [4, 5, 6]), max_rows=2, threads=1)
    assert shapes == [(3,), (3,)]


@pytest.mark.parametrize("datatype", [name for name in tensors.DATATYPES if name not in ("BYTES", "BOOL")])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (1, 0), (2, 0), (0,), (0, 3)])
async def test_stacked_calls_give_the_bits_of_single_calls(datatype: str, shape: tuple[int, ...]) -> None:
    def call(arrays: Arrays) -> dict[str, Any]:
        x = arrays["x"]
        return {"y": x + x, "z": np.sqrt(np.abs(x.astype(np.float32))), "same": x}

    asked = columns(*np.arange(6 * np.prod(shape, dtype=int)).reshape(6, *shape), datatype=datatype)
    assert await infer(call, asked, max_rows=4) == await infer(call, asked)


async def test_stacked_texts_are_those_of_single_calls() -> None:
    def call(arrays: Arrays) -> dict[str, Any]:
        return {"y": np.array([element.upper() for element in arrays["x"].tolist()], dtype=object)}

    asked = texts([b"a", b""], [b"c\x00", b"dd"], [b"\xff", b"f"])
    single = await infer(call, asked)
    assert await infer(call, asked, max_rows=4) == single
    assert values(single) == [[b"A", b""], [b"C\x00", b"DD"], [b"\xff", b"F"]]


@pytest.mark.parametrize("max_rows", [None, 4])
@pytest.mark.parametrize(
    ("answer", "is_text"),
    [
        (np.array(["a", "é"]), True),
        (np.array(["a", "é"], dtype=object), True),
        (np.array(["a", b"b"], dtype=object), False),
        (np.array([b"a", b"b"], dtype=object), False),
        (np.array([b"a", b"b"]), False),
    ],
)
async def test_an_output_of_text_says_that_it_is_text(answer: Any, *, is_text: bool, max_rows: int | None) -> None:
    runtime = InProcessRuntime("m", lambda: function(lambda _: {"y": answer}), max_rows=max_rows, threads=1)
    await runtime.load()
    said = []
    async for part in runtime.infer(columns([1], [2]), [()] * 2, 5.0):
        assert isinstance(part.outcome, Columns)
        said += [part.outcome.specs[0].parameters] * len(part.rows)
    await runtime.unload()
    text = encode_parameters({"content_type": InferParameter(string_param="str")})
    assert said == [text if is_text else b""] * 2


async def test_tensors_of_different_first_dimensions_are_not_stacked() -> None:
    """x (2,) * factor (1,) broadcasts; two of them stacked, (4,) * (2,), would not, and (2, 2) * (2,) wrongly."""

    def call(arrays: Arrays) -> dict[str, Any]:
        return {"y": arrays["x"] * arrays["factor"]}

    specs = (TensorSpec("x", "FP64", (2, 2)), TensorSpec("factor", "FP64", (1,)))
    asked = Columns(ids(2), specs, (np.ones((2, 2, 2)), np.array([[10.0], [20.0]])))
    assert values(await infer(call, asked, max_rows=8)) == [[[10, 10], [10, 10]], [[20, 20], [20, 20]]]


async def test_an_answer_that_is_not_one_row_for_each_is_asked_for_one_by_one() -> None:
    """Two stacked requests of one row, an answer of four: shared out, each would get half of the other's."""

    def call(arrays: Arrays) -> dict[str, Any]:
        return {"y": np.full(4, arrays["x"].sum())}

    assert values(await infer(call, columns([1], [2]), max_rows=8)) == [[1] * 4, [2] * 4]


async def test_one_bad_request_in_a_stack_fails_alone() -> None:
    def call(arrays: Arrays) -> dict[str, Any]:
        if (arrays["x"] < 0).any():
            raise InvalidInput("negative")
        return double(arrays)

    assert values(await infer(call, columns([1], [-1], [3]), max_rows=8)) == [[2], "negative", [6]]


async def test_a_bad_request_is_refused_as_the_model_refuses_it() -> None:
    def call(_arrays: Arrays) -> dict[str, Any]:
        raise InvalidInput("no")

    [outcome] = await infer(call, columns([1]))
    assert isinstance(outcome, InvalidInput)


async def test_whatever_a_model_raises_is_its_failure() -> None:
    def call(_arrays: Arrays) -> dict[str, Any]:
        raise ZeroDivisionError("by zero")

    [outcome] = await infer(call, columns([1]))
    assert isinstance(outcome, ModelFailed)
    assert outcome.text == "ZeroDivisionError: by zero"


async def test_a_model_that_exits_does_not_end_the_process() -> None:
    def call(_arrays: Arrays) -> dict[str, Any]:
        raise SystemExit(3)

    assert values(await infer(call, columns([1]))) == ["SystemExit: 3"]


async def test_rows_without_dimensions_stay_arrays() -> None:
    def call(arrays: Arrays) -> dict[str, Any]:
        assert isinstance(arrays["x"], np.ndarray)
        return double(arrays)

    assert values(await infer(call, columns(1, 2), max_rows=8)) == [2, 4]


async def test_text_without_dimensions_is_an_answer() -> None:
    assert values(await infer(lambda _: {"y": np.array(b"a", dtype=object)}, columns([1]))) == [b"a"]


async def test_text_that_utf8_cannot_say_fails_alone() -> None:
    def call(arrays: Arrays) -> dict[str, Any]:
        return {"y": np.array(["\udcff" if element else "good" for element in arrays["x"]])}

    found = values(await infer(call, columns([1], [0])))
    assert found[1] == [b"good"]
    assert found[0].startswith("its answer cannot be read: UnicodeEncodeError")


async def test_an_answer_without_a_datatype_is_the_models_failure() -> None:
    [text] = values(await infer(lambda _: {"y": np.array([1j])}, columns([1])))
    assert text == 'output "y": an array of complex128 has no datatype in the V2 protocol'


async def test_bf16_comes_as_its_values() -> None:
    bits = tensors.bf16_of_float32(np.array([[1.5, 2.0]]))
    assert values(await infer(double, columns(*bits, datatype="BF16"), max_rows=4)) == [[3.0, 4.0]]


async def test_fp16_stays_fp16() -> None:
    [outcome] = await infer(double, columns([1.5], datatype="FP16"))
    assert not isinstance(outcome, RequestError)
    assert outcome[0][1] == "FP16"


async def test_answers_of_the_other_byte_order_are_the_same_numbers() -> None:
    found = await infer(lambda _: {"y": np.array([1, 2], ">i4")}, columns([1]))
    assert isinstance(found[0], list)
    assert found[0][0][:3] == ("y", "INT32", (2,))


async def test_a_model_cannot_write_into_what_others_read() -> None:
    def call(arrays: Arrays) -> dict[str, Any]:
        arrays["x"] += 1
        return {"y": arrays["x"]}

    array = np.ones((2, 1))
    asked = Columns(ids(2), (TensorSpec("x", "FP64", (1,)),), (array,))
    for max_rows in (None, 8):
        assert all("read-only" in text for text in values(await infer(call, asked, max_rows=max_rows)))
    assert array.tolist() == [[1], [1]]


async def test_a_model_may_fill_one_array_again_and_again() -> None:
    buffer = np.zeros(1)

    def call(arrays: Arrays) -> dict[str, Any]:
        buffer[:] = arrays["x"]
        return {"y": buffer}

    assert values(await infer(call, columns([1], [2], [3]), threads=1)) == [[1], [2], [3]]


async def test_answers_of_different_shapes_are_parts_of_their_own() -> None:
    def call(arrays: Arrays) -> dict[str, Any]:
        return {"y": np.arange(int(arrays["x"][0]))}

    assert values(await infer(call, columns([1], [3], [1]))) == [[0], [0, 1, 2], [0]]


async def test_tensors_that_share_a_name_are_refused() -> None:
    asked = Columns(ids(1), (TensorSpec("x", "FP64", ()),) * 2, (np.ones(1),) * 2)
    [text] = values(await infer(double, asked))
    assert text == "the tensors x, x are not all named differently; rename with tensorMap"


async def test_tensors_that_the_model_does_not_take_are_refused() -> None:
    runtime = InProcessRuntime("m", lambda: function(double, ("x", "scale")), max_rows=None, threads=4)
    await runtime.load()
    [part] = [part async for part in runtime.infer(columns([1]), [()], 1.0)]
    await runtime.unload()
    assert isinstance(part.outcome, InvalidInput)
    assert str(part.outcome) == 'model "m" takes the tensors x, scale and was given x; rename with tensorMap'


@pytest.mark.parametrize("threads", [1, 3])
async def test_no_more_calls_run_at_once_than_threads(threads: int) -> None:
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(threads)

    def call(arrays: Arrays) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(5)
        with lock:
            running -= 1
        return double(arrays)

    await infer(call, columns(*[[row] for row in range(6)]), threads=threads)
    assert most == threads


async def test_a_slow_row_does_not_hold_back_the_answer_of_the_row_before_it() -> None:
    let_go = threading.Event()

    def call(arrays: Arrays) -> dict[str, Any]:
        if arrays["x"][0] == 2:
            assert let_go.wait(5)
        return double(arrays)

    runtime = InProcessRuntime("m", lambda: function(call), max_rows=None, threads=1)
    await runtime.load()
    parts = runtime.infer(columns([1], [2]), [()] * 2, 5.0)
    first = await asyncio.wait_for(anext(parts), 4)
    assert list(first.rows) == [0]
    let_go.set()
    assert [list(part.rows) async for part in parts] == [[1]]
    await runtime.unload()


async def test_a_call_of_many_rows_lets_another_have_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "TURN_SECONDS", 0.0)
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def model(arrays: Arrays) -> dict[str, Any]:
        seen.append(float(arrays["x"][0]))
        begun.set()
        assert go_on.wait(5)
        return {"y": arrays["x"]}

    runtime = InProcessRuntime("m", lambda: function(model), max_rows=None, threads=1)
    await runtime.load()

    async def answers(asked: Columns) -> int:
        return sum([len(part.rows) async for part in runtime.infer(asked, [()] * len(asked), 5.0)])

    many = asyncio.create_task(answers(columns([1.0], [2.0], [3.0])))
    assert await asyncio.to_thread(begun.wait, 5)
    single = asyncio.create_task(answers(columns([9.0])))
    await asyncio.sleep(0)
    go_on.set()
    assert (await many, await single) == (3, 1)
    assert seen == [1.0, 9.0, 2.0, 3.0]
    await runtime.unload()


async def test_calls_that_wait_when_a_model_is_unloaded_end_with_an_error() -> None:
    begun, let_go = threading.Event(), threading.Event()

    def call(arrays: Arrays) -> dict[str, Any]:
        begun.set()
        assert let_go.wait(5)
        return double(arrays)

    runtime = InProcessRuntime("m", lambda: function(call), max_rows=None, threads=1)
    await runtime.load()

    async def ask(asked: Columns) -> list[Part]:
        return [part async for part in runtime.infer(asked, [()] * len(asked), 5.0)]

    running = asyncio.create_task(ask(columns([1], [2])))
    queued = asyncio.create_task(ask(columns([3])))
    await asyncio.to_thread(begun.wait, 5)
    unloading = asyncio.create_task(runtime.unload())
    await asyncio.sleep(0)
    let_go.set()
    answered, refused = await asyncio.wait_for(running, 5)
    assert isinstance(answered.outcome, Columns)
    assert list(refused.rows) == [1]
    assert str(refused.outcome) == 'model "m" was unloaded before its turn came'
    [part] = await asyncio.wait_for(queued, 5)
    assert isinstance(part.outcome, ModelFailed)
    await unloading


async def test_a_model_is_ready_between_load_and_unload() -> None:
    runtime = InProcessRuntime("m", lambda: function(double), max_rows=None, threads=4)
    said = [await runtime.ready()]
    await runtime.load()
    said.append(await runtime.ready())
    await runtime.unload()
    assert [*said, await runtime.ready()] == [False, True, False]


async def test_a_model_that_is_not_loaded_fails_its_requests() -> None:
    runtime = InProcessRuntime("m", lambda: function(double), max_rows=None, threads=4)
    [part] = [part async for part in runtime.infer(columns([1]), [()], 1.0)]
    assert isinstance(part.outcome, Unreachable)
    assert str(part.outcome) == 'model "m" is not loaded'


async def test_a_model_is_freed_once() -> None:
    closed: list[str] = []
    made = Function(lambda arrays: list(arrays.items()), None, "test", lambda: closed.append("closed"))
    runtime = InProcessRuntime("m", lambda: made, max_rows=None, threads=4)
    await runtime.load()
    await runtime.unload()
    await runtime.unload()
    assert closed == ["closed"]


async def test_a_model_that_cannot_be_loaded_leaves_no_threads() -> None:
    def load() -> Function:
        raise RuntimeUnavailable("m", "no")

    runtime = InProcessRuntime("gone", load, max_rows=None, threads=4)
    with pytest.raises(RuntimeUnavailable):
        await runtime.load()
    await asyncio.to_thread(lambda: [t.join(5) for t in threading.enumerate() if t.name.startswith("model-gone")])
    assert not [t for t in threading.enumerate() if t.name.startswith("model-gone")]


async def test_metadata_names_the_inputs() -> None:
    runtime = InProcessRuntime("m", lambda: function(double, ("x",)), max_rows=None, threads=4)
    await runtime.load()
    said = await runtime.metadata()
    await runtime.unload()
    assert (said.name, said.platform, [item.name for item in said.inputs]) == ("m", "test", ["x"])


async def test_a_model_that_hangs_fails_its_rows_when_nothing_comes_in_time() -> None:
    release = threading.Event()

    def wait(arrays: Any) -> list[tuple[str, Any]]:
        if arrays["x"][0] < 0:
            release.wait(30)
        return [("y", arrays["x"])]

    runtime = InProcessRuntime("m", lambda: Function(wait, ("x",), "test"), max_rows=None, threads=1)
    await runtime.load()
    columns = Columns([b"", b""], (TensorSpec("x", "INT32", (1,)),), (np.array([[1], [-1]], dtype=np.int32),))
    try:
        outcomes = {part.rows[0]: part.outcome async for part in runtime.infer(columns, [(), ()], 0.2)}
    finally:
        release.set()
        await runtime.unload()
    assert isinstance(outcomes[0], Columns)
    assert isinstance(outcomes[1], TimedOut)


async def test_a_call_that_hangs_does_not_hold_up_the_unloading_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "UNLOAD_SECONDS", 0.05)
    release, closed = threading.Event(), threading.Event()

    def hang(arrays: Any) -> list[tuple[str, Any]]:
        release.wait(30)
        return double(arrays)

    made = Function(hang, ("x",), "test", close=closed.set)
    runtime = InProcessRuntime("m", lambda: made, max_rows=None, threads=1)
    await runtime.load()
    try:
        [part] = [part async for part in runtime.infer(columns([1]), [()], 0.05)]
        assert isinstance(part.outcome, TimedOut)
        await asyncio.wait_for(runtime.unload(), 5)
        assert not closed.is_set(), "what a call still uses is not freed"
    finally:
        release.set()


async def test_a_single_request_of_a_quick_model_is_answered_without_a_turn_of_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inprocess, "QUICK_SECONDS", 60.0)
    monkeypatch.setattr(inprocess, "SPOT_SECONDS", 60.0)
    runtime = InProcessRuntime("m", lambda: function(double), max_rows=8, threads=2)
    await runtime.load()
    turned = []
    for _ in range(2):
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        [part] = [part async for part in runtime.infer(columns([1, 2]), [()], 5.0)]
        assert values([read(part, 0, b"id0")]) == [[2, 4]]
        turned.append(bool(turns))
    # Of a model that was never called it is not known how quick it is.
    assert turned == [True, False]
    await runtime.unload()


async def test_a_call_that_takes_longer_than_the_last_one_does_not_hold_up_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inprocess, "QUICK_SECONDS", 60.0)
    going_on = threading.Event()
    going_on.set()

    def call(arrays: Arrays) -> dict[str, Any]:
        assert going_on.wait(30)
        return double(arrays)

    runtime = InProcessRuntime("m", lambda: function(call), max_rows=None, threads=2)
    await runtime.load()
    for is_slow in (False, True):
        if is_slow:
            going_on.clear()
            asyncio.get_running_loop().call_soon(going_on.set)
        [part] = [part async for part in runtime.infer(columns([1, 2]), [()], 60.0)]
        assert values([read(part, 0, b"id0")]) == [[2, 4]]
    await runtime.unload()


async def test_single_requests_of_a_quick_model_wait_to_be_stacked_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inprocess, "QUICK_SECONDS", 60.0)
    shapes = []

    def call(arrays: Arrays) -> dict[str, Any]:
        shapes.append(arrays["x"].shape)
        return double(arrays)

    runtime = InProcessRuntime("m", lambda: function(call), max_rows=2, delay=60.0, threads=1)
    await runtime.load()

    async def ask() -> None:
        assert [part.rows async for part in runtime.infer(columns([[1]]), [()], 5.0)]

    for _ in range(2):
        await asyncio.gather(ask(), ask())
    assert shapes == [(2, 1), (2, 1)]
    await runtime.unload()
