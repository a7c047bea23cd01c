"""Callers and gateways that go wrong: rows 26 to 28."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from product import infer, inputs

if TYPE_CHECKING:
    from scene import Scene

CALLERS = 200


def ask(address: str, number: int, name: str, attempts: int = 1, others: tuple[str, ...] = ()) -> int | str:
    """The answer to a caller, or what kept it from one."""
    for address_ in (address, *others)[:attempts]:
        try:
            answer = infer(address_, "pipelines/chain", inputs(INPUT=[number]), [("x-request-id", name)])
        except OSError:
            continue
        return answer.json["outputs"][0]["data"][0] if answer.status == 200 else f"{answer.status} {answer.body!r}"
    return "no connection"


@pytest.mark.row(26, brief=True)
@pytest.mark.timeout(180)
def test_callers_with_one_request_id_get_each_their_own_answer(scene: Scene) -> None:
    scene.fleet.grow(2)
    gateways = [scene.make("gateway").start() for _ in range(2)]
    with ThreadPoolExecutor(CALLERS) as callers:
        calls = [callers.submit(ask, gateways[n % 2].address, n, "the-same-for-all") for n in range(CALLERS)]
        answers = [call.result() for call in calls]
    crossed = [(number, answer) for number, answer in enumerate(answers) if answer != number + 2]
    scene.figures.update(requests=CALLERS, crossed=len(crossed))
    for gateway in gateways:
        gateway.end()
    assert not crossed, crossed[:5]
    assert scene.fleet.workers
    scene.fleet.end_all()


@pytest.mark.row(27)
@pytest.mark.timeout(180)
def test_callers_of_a_gateway_that_is_killed_are_answered_by_another_under_the_same_id(scene: Scene) -> None:
    scene.fleet.grow(2)
    dying, living = (scene.make("gateway").start() for _ in range(2))
    with ThreadPoolExecutor(CALLERS) as callers:
        calls = [
            callers.submit(ask, dying.address, n, f"id-{n % 50}", attempts=2, others=(living.address,))
            for n in range(500)
        ]
        time.sleep(0.3)
        dying.kill()
        answers = [call.result() for call in calls]
    crossed = [(number, answer) for number, answer in enumerate(answers) if answer != number + 2]
    scene.figures.update(requests=len(answers), crossed=len(crossed))
    assert not crossed, crossed[:5]
    living.end()
    scene.fleet.end_all()


IN_FLIGHT = 100


@pytest.mark.row(28)
@pytest.mark.timeout(180)
def test_callers_that_leave_or_wait_in_vain_free_their_place(scene: Scene) -> None:
    # No worker: nobody answers. Each of the callers takes one of the places, and gives it back.
    scene.settings.update(SELDON_MAX_IN_FLIGHT=str(IN_FLIGHT), SELDON_REQUEST_TIMEOUT="1")
    (worker,) = scene.fleet.grow(1)
    scene.fleet.end(worker)
    gateway = scene.make("gateway").start()
    host, _, port = gateway.address.rpartition(":")
    body = b'{"inputs":[{"name":"INPUT","datatype":"INT32","shape":[1,1],"data":[1]}]}'
    head = f"POST /v2/pipelines/chain/infer HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    infer(gateway.address, "pipelines/chain", inputs(INPUT=[1]))
    before = gateway.resident
    for _ in range(10):
        left = [socket.create_connection((host, int(port))) for _ in range(IN_FLIGHT)]
        for caller in left:
            caller.sendall(head + body)
        for caller in left:
            caller.close()
        with ThreadPoolExecutor(IN_FLIGHT) as callers:
            asked = [callers.submit(infer, gateway.address, "pipelines/chain", inputs(INPUT=[n])) for n in range(50)]
            statuses = {call.result().status for call in asked}
        assert statuses <= {429, 504}, statuses
    # All have left or were told that nobody answers: as many as there are places wait again, and none is refused.
    with ThreadPoolExecutor(IN_FLIGHT) as callers:
        asked = [callers.submit(infer, gateway.address, "pipelines/chain", inputs(INPUT=[n])) for n in range(IN_FLIGHT)]
        statuses = {call.result().status for call in asked}
    assert statuses == {504}
    grown = gateway.resident - before
    scene.figures.update(requests=10 * (IN_FLIGHT + 50) + IN_FLIGHT, grown_mb=grown / 1e6)
    assert grown < 50e6
    gateway.end()
