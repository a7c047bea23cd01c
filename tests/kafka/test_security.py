"""TLS and SASL to the broker: real certificates, and a door of TLS before an embedded broker."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from engine.errors import InvalidSettings
from engine.kafka.client import connection
from engine.kafka.security import security
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The PEM files of a certificate of 127.0.0.1 that it signed itself, and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=broker"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return str(made), str(key)


def test_a_broker_of_plain_text_needs_nothing_more() -> None:
    assert security(Settings()) == {}


def test_sasl_is_told_to_every_client() -> None:
    settings = Settings(
        kafka_broker="b:1",
        kafka_security="SASL_PLAINTEXT",
        kafka_sasl="SCRAM-SHA-512",
        kafka_user="u",
        kafka_password="p",
    )
    assert connection(settings) == {
        "bootstrap_servers": ["b:1"],
        "client_id": "seldon",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }


def test_a_certificate_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"TLS to Kafka: none\.pem cannot be used: .*No such file"):
        security(Settings(kafka_security="SSL", kafka_ca="none.pem"))


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    with pytest.raises(InvalidSettings, match=r"ca\.pem cannot be used"):
        security(Settings(kafka_security="SSL", kafka_ca=str(path)))


@contextlib.asynccontextmanager
async def door(certificate: tuple[str, str], broker: str) -> AsyncIterator[str]:
    """The address of a door of TLS before a broker, for whoever shows the same certificate."""
    host, _, port = broker.rpartition(":")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate[0])
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def reached(certificate: tuple[str, str], broker: str, **given: Any) -> None:
    async with door(certificate, broker) as listening:
        settings = Settings(kafka_broker=listening, kafka_security="SSL", **given)
        client = AIOKafkaClient(**connection(settings))
        try:
            await client.bootstrap()
        finally:
            await client.close()


def test_a_broker_is_reached_by_tls_with_a_certificate_of_our_own(
    certificate: tuple[str, str], embedded_broker: str
) -> None:
    own = {"kafka_certificate": certificate[0], "kafka_key": certificate[1]}
    asyncio.run(reached(certificate, embedded_broker, kafka_ca=certificate[0], **own))


def test_a_broker_whose_certificate_nobody_vouches_for_is_not_talked_to(
    certificate: tuple[str, str], embedded_broker: str
) -> None:
    with pytest.raises(KafkaConnectionError):
        asyncio.run(reached(certificate, embedded_broker))
