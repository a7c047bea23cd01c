from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.errors import InvalidSettings
from engine.gateway.port import PREFACE, Port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class LineServer(asyncio.Protocol):
    """NOT the product's HTTP: tells the first bytes it was given."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"http:" + data)


class FakeHttp:
    """NOT the product's HTTP door."""

    async def start(self) -> None: ...

    def protocol(self) -> asyncio.Protocol:
        return LineServer()

    async def stop(self, grace: float) -> None: ...


class FakeGrpc:
    """NOT the product's gRPC door: a unix socket on which a test says what is answered."""

    def __init__(self, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        self.answer = answer
        self.path = ""
        self.server: asyncio.Server | None = None

    async def start(self, path: str) -> None:
        self.path = path
        self.server = await asyncio.start_unix_server(self.answer, path)

    async def stop(self, grace: float) -> None:  # noqa: ARG002
        if self.server is not None:
            self.server.close()


class Backend:
    """What the far end of the pipe sees, and says."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.put_nowait((reader, writer))


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def port(backend: Backend) -> AsyncIterator[Port]:
    it = Port(FakeHttp(), FakeGrpc(backend.answer), first_bytes_deadline=0.2)
    await it.start("127.0.0.1", 0)
    yield it
    await it.stop(0)


async def piped(port: Port, backend: Backend) -> tuple[Any, Any, Any, Any]:
    """A caller and the far end of its pipe."""
    reader, writer = await asyncio.open_connection(*port.address)
    writer.write(PREFACE)
    far_reader, far_writer = await backend.connections.get()
    assert await far_reader.readexactly(len(PREFACE)) == PREFACE
    return reader, writer, far_reader, far_writer


async def ended(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has closed the connection, by an EOF or a reset."""
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""


async def byte_by_byte(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Each byte in a packet of its own, as far as the loop can see to it."""
    for byte in data:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)


async def test_http_is_handed_over_with_its_first_bytes(port: Port) -> None:
    reader, writer = await asyncio.open_connection(*port.address)
    writer.write(b"GET /")
    assert await reader.readexactly(10) == b"http:GET /"
    writer.write(b"x")
    assert await reader.readexactly(6) == b"http:x"
    writer.close()


async def test_first_bytes_that_begin_as_the_preface_and_turn_out_http(port: Port) -> None:
    reader, writer = await asyncio.open_connection(*port.address)
    await byte_by_byte(writer, b"PRI * HTTP/1")
    assert await reader.readexactly(17) == b"http:PRI * HTTP/1"
    writer.close()


async def test_a_preface_that_comes_byte_by_byte_is_piped(port: Port, backend: Backend) -> None:
    _, writer = await asyncio.open_connection(*port.address)
    await byte_by_byte(writer, PREFACE + b"\r\n\r\nSM\r\n\r\n")
    far_reader, far_writer = await backend.connections.get()
    assert await far_reader.readexactly(24) == PREFACE + b"\r\n\r\nSM\r\n\r\n"
    writer.close()
    assert await far_reader.read() == b""
    far_writer.close()


@pytest.mark.parametrize("said", [b"", b"P", PREFACE[:-1]])
async def test_a_connection_that_does_not_say_what_it_is_ends_at_the_deadline(port: Port, said: bytes) -> None:
    reader, writer = await asyncio.open_connection(*port.address)
    writer.write(said)
    async with asyncio.timeout(10):
        await ended(reader)
    assert len(port.undecided) == 0
    writer.close()


async def test_the_deadline_is_for_the_first_bytes_only(port: Port, backend: Backend) -> None:
    reader, writer, _, far_writer = await piped(port, backend)
    silent, silent_writer = await asyncio.open_connection(*port.address)
    await ended(silent)
    silent_writer.close()
    far_writer.write(b"late")
    assert await reader.readexactly(4) == b"late"
    writer.close()
    far_writer.close()


async def test_both_ways_are_piped_whole(port: Port, backend: Backend) -> None:
    reader, writer, far_reader, far_writer = await piped(port, backend)
    data = os.urandom(8 << 20)

    async def send(to: asyncio.StreamWriter) -> None:
        to.write(data)
        await to.drain()

    _, there, _, back = await asyncio.gather(
        send(writer), far_reader.readexactly(len(data)), send(far_writer), reader.readexactly(len(data))
    )
    assert there == data
    assert back == data
    writer.close()
    far_writer.close()


@pytest.mark.parametrize("slow", ["far", "caller"])
async def fill(sender: asyncio.StreamWriter) -> int:
    """How many MiB go in until the sender is held back; 256 would show that it is not."""
    for sent in range(1, 256):
        sender.write(bytes(1 << 20))
        try:
            async with asyncio.timeout(1):
                await sender.drain()
        except TimeoutError:
            return sent
    return 256


@pytest.mark.parametrize("slow", ["far", "caller"])
async def test_an_end_that_does_not_read_holds_the_other_back(port: Port, backend: Backend, slow: str) -> None:
    reader, writer, far_reader, far_writer = await piped(port, backend)
    sender, receiver = (writer, far_reader) if slow == "far" else (far_writer, reader)
    sent = await fill(sender)
    # What the kernel's buffers hold, and no more.
    assert sent < 64
    assert await receiver.readexactly(sent << 20) == bytes(sent << 20)
    writer.close()
    far_writer.close()


async def test_a_callers_eof_is_passed_on_and_the_way_back_stays_open(port: Port, backend: Backend) -> None:
    reader, writer, far_reader, far_writer = await piped(port, backend)
    writer.write_eof()
    assert await far_reader.read() == b""
    far_writer.write(b"answer")
    far_writer.close()
    assert await reader.read() == b"answer"
    writer.close()


async def test_a_far_end_that_closes_closes_the_caller_after_its_last_bytes(port: Port, backend: Backend) -> None:
    reader, writer, _, far_writer = await piped(port, backend)
    data = os.urandom(4 << 20)
    far_writer.write(data)
    far_writer.close()
    assert await reader.read() == data
    writer.close()


async def test_a_caller_that_breaks_off_closes_the_far_end(port: Port, backend: Backend) -> None:
    _, writer, far_reader, far_writer = await piped(port, backend)
    writer.transport.abort()
    async with asyncio.timeout(10):
        assert await far_reader.read() == b""
    far_writer.close()


async def test_a_caller_is_closed_when_the_grpc_server_is_out_of_reach(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    port._socket += ".gone"
    reader, writer = await asyncio.open_connection(*port.address)
    writer.write(PREFACE)
    async with asyncio.timeout(10):
        await ended(reader)
    assert "cannot be reached" in caplog.text
    writer.close()


async def test_a_port_in_use_is_an_error_that_says_so(port: Port, backend: Backend) -> None:
    second = Port(FakeHttp(), FakeGrpc(backend.answer))
    with pytest.raises(InvalidSettings, match=r"--listen 127\.0\.0\.1:\d+: the port is in use"):
        await second.start(*port.address)


@pytest.mark.parametrize(("host", "number"), [("192.0.2.1", 0), ("no such host", 0)])
async def test_an_address_that_cannot_be_had_is_an_error(backend: Backend, host: str, number: int) -> None:
    with pytest.raises(InvalidSettings, match="--listen"):
        await Port(FakeHttp(), FakeGrpc(backend.answer)).start(host, number)


async def test_a_folder_too_deep_for_a_socket_is_an_error(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(InvalidSettings, match="TMPDIR"):
        await Port(FakeHttp(), FakeGrpc(backend.answer)).start("127.0.0.1", 0)
    assert list(deep.iterdir()) == []


async def test_the_socket_is_in_a_private_folder_that_a_stop_removes(backend: Backend) -> None:
    grpc = FakeGrpc(backend.answer)
    port = Port(FakeHttp(), grpc)
    await port.start("127.0.0.1", 0)
    folder = Path(grpc.path).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await port.stop(0)
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*port.address)


async def test_a_stop_ends_connections_that_are_undecided_or_piped_and_leaves_no_task(
    backend: Backend,
) -> None:
    before = asyncio.all_tasks()
    port = Port(FakeHttp(), FakeGrpc(backend.answer))
    await port.start("127.0.0.1", 0)
    silent_reader, silent = await asyncio.open_connection(*port.address)
    reader, writer, _, far_writer = await piped(port, backend)
    async with asyncio.timeout(10):
        await port.stop(0)
        for each in (silent_reader, reader):
            await ended(each)
    assert asyncio.all_tasks() == before
    for each in (silent, writer, far_writer):
        each.close()
