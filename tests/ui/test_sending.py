from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import InvalidInput, ModelFailed, TimedOut
from engine.protocol.record import Owner
from engine.ui import sending

if TYPE_CHECKING:
    from conftest import Shown


def document(*data: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [len(data)], "data": list(data)}]}


async def send(shown: Shown, name: str, *data: float) -> str:
    status, body = await shown.call("POST", f"send?kind=model&name={name}", json=document(*data))
    assert status == 202, body
    return str(body["id"])


async def followed(shown: Shown, request_id: str) -> tuple[list[Any], Any]:
    *records, (last, answer) = [event async for event in shown.events(f"follow/{request_id}")]
    assert ({name for name, _ in records}, last) == ({"record"}, "answer")
    return [data for _, data in records], answer


async def test_a_models_inputs_and_outputs_are_told_and_then_its_answer(shown: Shown) -> None:
    records, answer = await followed(shown, await send(shown, "echo", 1, 2))
    assert [(each["node"], each["side"], each["tensors"][0]["first"]) for each in records] == [
        ("echo", "inputs", [1, 2]),
        ("echo", "outputs", [1, 2]),
    ]
    assert (answer["status"], answer["body"]["outputs"][0]["data"]) == (200, [1, 2])
    assert answer["seconds"] >= 0


async def test_what_was_sent_can_be_looked_at_again(shown: Shown) -> None:
    request_id = await send(shown, "echo", 1)
    first = await followed(shown, request_id)
    assert await followed(shown, request_id) == first
    _, found = await shown.get(f"requests/{request_id}?model=echo")
    assert found["records"] == first[0]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInput("<b>no</b>"), 400, "INVALID_ARGUMENT"),
        (ModelFailed("<b>no</b>"), 500, "INTERNAL"),
        (TimedOut("<b>no</b>"), 504, "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_failure_is_told_with_its_status_and_its_text(
    shown: Shown, error: Exception, status: int, code: str
) -> None:
    shown.inference.failures["bad"] = error
    records, answer = await followed(shown, await send(shown, "bad", 1))
    assert (records[-1]["error"]["status"], records[-1]["error"]["step"]) == (code, "bad")
    assert answer["status"] == status
    assert "<b>no</b>" in answer["body"]["error"]


async def test_a_fault_of_ours_ends_it_too(shown: Shown) -> None:
    shown.inference.failures["bug"] = ZeroDivisionError()
    _, answer = await followed(shown, await send(shown, "bug", 1))
    assert answer["status"] == 500


async def test_a_large_answer_is_shown_by_the_begin_of_its_tensors(shown: Shown) -> None:
    _, answer = await followed(shown, await send(shown, "echo", *range(sending.MOST_BODY)))
    (output,) = answer["body"]["outputs"]
    assert (output["count"], len(output["first"]), output["cut"]) == (sending.MOST_BODY, 16, True)
    assert "bytes" in answer["body"]["note"]


async def test_it_is_counted_as_a_call_of_the_gateway(shown: Shown) -> None:
    shown.figures.known = lambda *_: True
    await followed(shown, await send(shown, "echo", 1))
    assert shown.figures.answers[Owner.MODEL]["echo", "rest", "200"].count == 1


async def test_what_is_no_request_is_refused(shown: Shown) -> None:
    for body in (b"{", b"[]", b"\xff", b'{"inputs": []}'):
        status, found = await shown.call("POST", "send?kind=model&name=echo", data=body)
        assert (status, bool(found["error"])) == (400, True), body
    status, _ = await shown.call("POST", "send?kind=model&name=none", json=document(1))
    assert status == 404
    assert shown.inference.count == 0


async def test_only_so_many_wait_for_their_answers_at_once(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MOST_RUNNING", 2)
    waiting = [await send(shown, "slow", 1) for _ in range(2)]
    status, _ = await shown.call("POST", "send?kind=model&name=slow", json=document(1))
    assert status == 429
    shown.inference.release.set()
    assert [(await followed(shown, each))[1]["status"] for each in waiting] == [200, 200]


async def test_a_gateway_that_is_full_is_told_of(shown: Shown) -> None:
    shown.inference.is_full = True
    status, body = await shown.call("POST", "send?kind=model&name=echo", json=document(1))
    assert (status, body["error"]) == (429, "it is full")


async def test_only_the_last_that_were_sent_are_kept(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MOST_KEPT", 1)
    first, second = await send(shown, "echo", 1), await send(shown, "echo", 2)
    assert (await shown.get(f"requests/{first}?model=echo"))[0] == 404
    assert (await shown.get(f"requests/{second}?model=echo"))[0] == 200
