"""Whether it is a Kafka broker that answers at an address, before a client is let at it.

A client of Kafka takes what anything else says for the length of an answer, and waits for so many bytes: at a web
server's port (`HTTP` is a length of 1.2 GB) it waited for its whole 20 s and could not say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from typing import TYPE_CHECKING, TypeAlias

from engine.errors import BrokerUnavailable
from engine.kafka.security import security

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.settings import Settings

Connection: TypeAlias = "tuple[asyncio.StreamReader, asyncio.StreamWriter]"

# A broker answers this in a few ms; one that is busy starting may take seconds.
PROBE_SECONDS = 10.0

# What has said nothing by then is asked whether it speaks HTTP.
PATIENCE_SECONDS = 1.0

# ApiVersions, version 0, which every broker knows and answers to whoever has not said who it is yet.
_CORRELATION = 7
_NAME = b"probe"
_REQUEST = struct.pack(">hhih", 18, 0, _CORRELATION, len(_NAME)) + _NAME
_ASKED = struct.pack(">i", len(_REQUEST)) + _REQUEST

# The first bytes of an answer: its length, which is some hundred bytes, and the number of its request.
_HEAD = struct.Struct(">ii")
_LONGEST = 1 << 20

_HTTP = b"HTTP/"

# The first bytes of a TLS alert.
_ALERT = b"\x15\x03"

_DEFAULT_PORT = 9092

_NOT_KAFKA = "name a broker by --kafka-broker"
_TLS = 'if it wants TLS, say so by "security.protocol" in kafka.json, or name another by --kafka-broker'
_NO_TLS = "see to its certificate and to the security settings in kafka.json, or name another by --kafka-broker"
_NOBODY = "start it, or name another by --kafka-broker"


async def probe(settings: Settings) -> None:
    """Return when a broker answers at one of the addresses; else raise BrokerUnavailable with what is there instead."""
    tls = security(settings).get("ssl_context")
    found = await asyncio.gather(*(_fault(address, tls) for address in settings.kafka_broker.split(",")))
    if all(found):
        raise BrokerUnavailable("; ".join(dict.fromkeys(found)))


async def _fault(address: str, tls: ssl.SSLContext | None) -> str:
    """What keeps the address from being a broker's; empty when it is one's."""
    try:
        async with asyncio.timeout(PROBE_SECONDS), _connected(address, tls) as (reader, writer):
            writer.write(_ASKED)
            return _told(address, await _head(address, reader))
    except TimeoutError:
        return _words(address, f": it says nothing within {PROBE_SECONDS:g} s", _NOT_KAFKA)
    except ssl.SSLError as error:
        return _words(address, f" in TLS ({(error.reason or str(error)).lower().replace('_', ' ')})", _NO_TLS)
    except OSError as error:
        return _words(address, f" ({_reason(error)})", _NOBODY)


@contextlib.asynccontextmanager
async def _connected(address: str, tls: ssl.SSLContext | None) -> AsyncIterator[Connection]:
    connection = await asyncio.open_connection(*_parts(address), ssl=tls)
    try:
        yield connection
    finally:
        connection[1].close()


async def _head(address: str, reader: asyncio.StreamReader) -> bytes:
    """The first bytes of an answer, fewer when the connection is closed before."""
    head = asyncio.ensure_future(reader.readexactly(_HEAD.size))
    try:
        done, _ = await asyncio.wait({head}, timeout=PATIENCE_SECONDS)
        if not done and await _speaks_http(address):
            return _HTTP
        return await head
    except asyncio.IncompleteReadError as error:
        return error.partial
    except ConnectionResetError:
        return b""
    finally:
        head.cancel()


async def _speaks_http(address: str) -> bool:
    """Whether what says nothing to us answers a call by HTTP: it waits for the end of a line, which we have none of."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_SECONDS), _connected(address, None) as (reader, writer):
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            return await reader.readexactly(len(_HTTP)) == _HTTP
    return False


def _told(address: str, head: bytes) -> str:
    if head.startswith(_HTTP):
        return _words(address, ": it speaks HTTP", _NOT_KAFKA)
    if not head or head.startswith(_ALERT):
        return _words(address, ": it ends connections without an answer", _TLS)
    if len(head) == _HEAD.size:
        length, correlation = _HEAD.unpack(head)
        if correlation == _CORRELATION and 0 < length < _LONGEST:
            return ""
    return _words(address, ": what is said there is not Kafka's", _NOT_KAFKA)


def _words(address: str, fault: str, hint: str) -> str:
    return f"no Kafka broker answers at {address}{fault}; {hint}"


def _parts(address: str) -> tuple[str, int]:
    """Host and port of an address as Settings has it, which may name no port."""
    host, colon, port = address.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = address, str(_DEFAULT_PORT)
    return host.strip("[]"), int(port)


def _reason(error: OSError) -> str:
    """`connection refused`: what the system says, without the address, which is told already."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error.strerror or error).lower() or "the connection is ended at once"
