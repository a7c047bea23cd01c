"""TLS and SASL: what a client proves to the broker, and what it wants proved."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from aiokafka.helpers import create_ssl_context

from engine.errors import InvalidSettings

if TYPE_CHECKING:
    import ssl

    from engine.settings import Settings


def security(settings: Settings) -> dict[str, Any]:
    """What aiokafka's clients are to be given beside the address; nothing where the broker takes plain text.

    Raises InvalidSettings, naming the files, when a certificate or key cannot be read.
    """
    protocol = settings.kafka_security
    if protocol == "PLAINTEXT":
        return {}
    found: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        found["ssl_context"] = _context(
            settings.kafka_ca,
            settings.kafka_certificate,
            settings.kafka_key,
            settings.kafka_key_password,
            checks_host=settings.kafka_identification == "https",
        )
    if protocol.startswith("SASL"):
        found["sasl_mechanism"] = settings.kafka_sasl
        found["sasl_plain_username"] = settings.kafka_user
        found["sasl_plain_password"] = settings.kafka_password
    return found


# One for all clients of a process: each costs some milliseconds, and there is a client for each pipeline.
@functools.cache
def _context(ca: str, certificate: str, key: str, password: str, *, checks_host: bool) -> ssl.SSLContext:
    try:
        # A password that is None would be asked for on the terminal.
        context: ssl.SSLContext = create_ssl_context(
            cafile=ca or None, certfile=certificate or None, keyfile=key or None, password=password
        )
    except (OSError, ValueError) as error:
        named = ", ".join(path for path in (ca, certificate, key) if path)
        raise InvalidSettings(
            f"TLS to Kafka: {named} cannot be used: {error}; name PEM files, and the key's password if it has one"
        ) from None
    context.check_hostname = checks_host
    return context
