"""Whom the page answers: browsers that were pointed at it, and no page of others that calls it behind their backs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable

# All comes from here: no script, style, font or picture of another host, and none that stands in a document.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def check(request: web.BaseRequest, hosts: Iterable[str]) -> None:
    """Raise HTTPForbidden, with the reason, for a request that may come from somebody else's page.

    A name that leads to this machine for a moment brings another page here with that name as its host; a form or a
    script of another page comes with its origin.

    hosts   under which names and addresses the page may be called, besides localhost and where the request came in
    """
    host = request.headers.get("Host", "")
    known = {"localhost", *hosts, *_reached(request)}
    if _name(host) not in known:
        raise web.HTTPForbidden(
            reason=f'this page is not that of "{_short(host)}"; open it as localhost, or name that host in --ui-listen'
        )
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise web.HTTPForbidden(reason=f'a page of "{_short(origin)}" may not call this one')


def _reached(request: web.BaseRequest) -> set[str]:
    """The address of this machine at which the connection came in: no name, so that nobody can have it lead here."""
    transport = request.transport
    address = None if transport is None else transport.get_extra_info("sockname")
    return {address[0]} if isinstance(address, tuple) else set()


def _name(host: str) -> str:
    """A host without its port: behind a forwarded port or a container's the page has another one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _short(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:80])
    return shown.replace('"', "'")
