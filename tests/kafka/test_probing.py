"""What answers at an address, asked of servers that say one thing each."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from engine.errors import BrokerUnavailable
from engine.kafka import probing
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """The address of a server that answers each connection so."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(answered, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()


def saying(said: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)  # what is left unread would have the connection reset
        writer.write(said)

    return answer


async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Waits for the end of a line, as web servers do."""
    await reader.readuntil(b"\n")
    writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")


async def nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Its answer to ApiVersions, of no version."""
    asked = await reader.readexactly(len(probing._ASKED))
    answer = asked[8:12] + bytes(6)
    writer.write(len(answer).to_bytes(4, "big") + answer)


async def probe(*addresses: str, security: str = "PLAINTEXT") -> str:
    """What the probe says; empty when it finds a broker."""
    try:
        await probing.probe(Settings(kafka_broker=",".join(addresses), kafka_security=security))
    except BrokerUnavailable as error:
        return str(error)
    return ""


async def test_a_broker_is_found() -> None:
    async with serving(broker) as address:
        assert await probe(address) == ""


async def test_one_broker_of_several_addresses_is_enough() -> None:
    async with serving(broker) as address:
        assert await probe("127.0.0.1:1", address) == ""


async def test_the_fault_of_every_address_is_told_where_none_is_a_brokers() -> None:
    async with serving(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        said = await probe("127.0.0.1:1", address)
    assert "127.0.0.1:1 (connection refused)" in said
    assert f"{address}: it speaks HTTP" in said


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (web_server, "it speaks HTTP; name a broker by --kafka-broker"),
        (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it speaks HTTP"),
        (saying(b"\x15\x03\x03\x00\x02\x02\x46"), 'if it wants TLS, say so by "security.protocol" in kafka.json'),
        (saying(b""), 'if it wants TLS, say so by "security.protocol" in kafka.json'),
        (saying(b"220 mail.example.com ESMTP\r\n"), "what is said there is not Kafka's"),
        (saying(b"\x00\x00\x00\x0a\x00\x00\x00\x01" + bytes(6)), "what is said there is not Kafka's"),
        (saying(b"abc"), "what is said there is not Kafka's"),
    ],
    ids=["a web server", "HTTP at once", "a TLS alert", "nothing and an end", "mail", "another request's", "too short"],
)
async def test_what_is_no_broker_is_told_by_what_it_says(answer: Answer, fault: str) -> None:
    async with serving(answer) as address:
        said = await probe(address)
    assert said.startswith(f"no Kafka broker answers at {address}: ")
    assert fault in said


async def test_what_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(probing, "PATIENCE_SECONDS", 0.05)
    async with serving(nothing) as address:
        assert f"{address}: it says nothing within 0.2 s" in await probe(address)


async def test_a_port_without_tls_is_told_to_who_speaks_tls() -> None:
    async with serving(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        assert f"{address} in TLS (wrong version number)" in await probe(address, security="SSL")


async def test_a_host_that_nobody_knows_is_told() -> None:
    assert "no Kafka broker answers at nowhere.invalid:9092 (" in await probe("nowhere.invalid:9092")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:1", ("localhost", 1)),
        ("localhost", ("localhost", 9092)),
        ("[::1]:7", ("::1", 7)),
        ("[::1]", ("::1", 9092)),
    ],
)
def test_an_address_without_a_port_has_kafkas(address: str, parts: tuple[str, int]) -> None:
    assert probing._parts(address) == parts
