"""A server of files on loopback that counts what it is asked and can be told to misbehave."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True)
class Served:
    """What stands at a path.

    cut    bytes after which the connection breaks
    stall  send nothing more after these bytes, until the server stops
    """

    body: bytes = b""
    etag: str | None = None
    status: int = 200
    cut: int | None = None
    stall: int | None = None


class FileServer:
    """Serves `files` by path; `asked` has each request as "METHOD /path"."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[str] = []
        self.gates: list[threading.Barrier] = []
        self.stopping = threading.Event()

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer._answer(self, with_body=False)

            def do_GET(self) -> None:
                outer._answer(self, with_body=True)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetches(self) -> int:
        return sum(asked.startswith("GET") for asked in self.asked)

    def _answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        found = self.files.get(path, Served(status=404))
        request.send_response(found.status)
        request.send_header("Content-Length", str(len(found.body)))
        if found.etag is not None:
            request.send_header("ETag", found.etag)
        request.end_headers()
        if not with_body or found.status != Served.status:
            return
        for gate in self.gates:
            gate.wait(10.0)
        until = found.cut if found.cut is not None else found.stall
        request.wfile.write(found.body[:until])
        request.wfile.flush()
        if found.stall is not None:
            self.stopping.wait(30.0)
