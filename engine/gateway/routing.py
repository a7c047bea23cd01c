"""Which resource a call is for, and which of its headers travel: the rules that both doors share. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import InvalidInput
from engine.gateway.inference import Target
from engine.protocol.record import REQUEST_ID, TRACE_CONTEXT, Owner, legal_name, reserved

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.protocol.record import Headers

# A caller's headers: names in lower case, values as they came, in their order.
Pairs: TypeAlias = "tuple[tuple[str, bytes], ...]"

SELDON_MODEL = "seldon-model"
STREAM = "seldon-stream"
TIMEOUT = "x-request-timeout-ms"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")
_MILLISECONDS = re.compile(rb"[0-9]{1,15}")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PRINTABLE_ASCII = re.compile(rb"[\x20-\x7e]*")


def target(seldon_model: str | None, owner: Owner | None, name: str | None) -> Target:
    """What a call is for: the header `seldon-model` wins over what the path or the message names.

    Without an owner, `name` may have a kind behind a dot as the header may.
    """
    if seldon_model is not None:
        return _of_text(seldon_model, f'the header "{SELDON_MODEL}"')
    if not name:
        raise InvalidInput(
            f"the call names no model or pipeline; "
            f'set the header "{SELDON_MODEL}" to NAME, NAME.pipeline, NAME.explainer or NAME.experiment'
        )
    if owner is None:
        return _of_text(name, "the model's name")
    return Target(owner, _checked(name, f"the {owner}'s name"))


def _of_text(text: str, source: str) -> Target:
    name, dot, kind = text.partition(".")
    if not dot:
        kind = Owner.MODEL.value
    if kind not in tuple(Owner):
        raise InvalidInput(
            f"{source} is {_shown(text)}; "
            "it has to be NAME, NAME.model, NAME.pipeline, NAME.explainer or NAME.experiment"
        )
    return Target(Owner(kind), _checked(name, source))


def _checked(name: str, source: str) -> str:
    if not legal_name(name):
        raise InvalidInput(
            f"{source} is {_shown(name)}; names have lower-case letters, digits, - and _, "
            f"begin and end with a letter or digit, and are at most 63 characters long"
        )
    return name


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:80] + "...")  # noqa: PLR2004 - enough to recognise it by


def request_id(pairs: Pairs) -> str | None:
    """The caller's own `x-request-id`; None without one, InvalidInput for one that cannot be passed on."""
    value = _first(pairs, REQUEST_ID)
    if value is None:
        return None
    if not _REQUEST_ID.fullmatch(value):
        raise InvalidInput(f'the header "{REQUEST_ID}" has to be 1 to 128 printable ASCII characters')
    return value.decode()


def seldon_model(pairs: Pairs) -> str | None:
    """The header that routes; None without one."""
    value = _first(pairs, SELDON_MODEL)
    return None if value is None else value.decode("utf-8", "replace")


def is_triton_stream(pairs: Pairs, first: Any) -> bool:
    """Whether who sends this first request of a stream waits for Triton's responses; InvalidInput for a third kind.

    Triton and the Open Inference Protocol's other servers give the same method different responses. Triton's clients
    always send raw contents, and those of the others send typed ones unless they are told to.
    """
    value = _first(pairs, STREAM)
    if value not in (None, b"oip", b"triton"):
        raise InvalidInput(f'the header "{STREAM}" has to be oip or triton')
    return value == b"triton" if value is not None else bool(first.raw_input_contents)


def timeout(pairs: Pairs, remaining: float | None, default: float) -> float:
    """How many seconds a call may take: the least of its header, its gRPC deadline and the setting."""
    limits = [default]
    value = _first(pairs, TIMEOUT)
    if value is not None:
        if not _MILLISECONDS.fullmatch(value) or not int(value):
            raise InvalidInput(f'the header "{TIMEOUT}" has to be a whole number of milliseconds above 0')
        limits.append(int(value) / 1000)
    if remaining is not None:
        limits.append(max(remaining, 0.0))
    return min(limits)


def _first(pairs: Pairs, name: str) -> bytes | None:
    return next((value for key, value in pairs if key == name), None)


def travelling(pairs: Pairs) -> Headers:
    """The caller's X- headers and trace context that go along to every step: in order, repeated ones kept.

    Reserved ones do not.

    InvalidInput for a name or value that could not be echoed to another protocol unharmed.
    """
    return tuple((name, _fit(name, value)) for name, value in pairs if _travels(name))


def _travels(name: str) -> bool:
    own = name in (REQUEST_ID, TIMEOUT) or reserved(name)
    return name in TRACE_CONTEXT or (name.startswith("x-") and not own)


def _fit(name: str, value: bytes) -> bytes:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"the header {_shown(name)} cannot travel: its name has to be 1 to 128 letters, digits, - and _"
        )
    if _CONTROL.search(value) or not _is_utf8(value):
        raise InvalidInput(f'the header "{name}" cannot travel: its value has control characters or is not UTF-8')
    return value


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def returning(headers: Headers) -> list[tuple[str, str]]:
    """The headers of an answer that go back to an HTTP caller; what HTTP cannot carry is left out.

    They come from records that anyone may have written, so a fault in one of them is not the caller's.
    """
    return [(name, value.decode()) for name, value in _returning(headers) if _is_utf8(value)]


def returning_ascii(headers: Headers) -> list[tuple[str, str]]:
    """The same for gRPC, whose text metadata is printable ASCII and whose `-bin` names mean binary values."""
    return [
        (name, value.decode())
        for name, value in _returning(headers)
        if _PRINTABLE_ASCII.fullmatch(value) and not name.endswith("-bin")
    ]


def _returning(headers: Headers) -> Iterable[tuple[str, bytes]]:
    for original, value in headers:
        name = original.lower()
        fit = _NAME.fullmatch(name) and value is not None and not _CONTROL.search(value)
        if fit and name.startswith("x-") and name != REQUEST_ID:
            assert value is not None
            yield name, value
