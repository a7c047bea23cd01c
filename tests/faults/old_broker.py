"""Marked as such: what stands for a broker from before KIP-447. It tells its versions and who it is, and no more."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Self

API_VERSIONS, METADATA, CREATE_PARTITIONS = 18, 3, 37
# As Apache Kafka 2.4 has them; what is not asked for is left out. TxnOffsetCommit (28) names no generation before 3.
VERSIONS = {0: 8, 1: 11, METADATA: 1, 9: 6, API_VERSIONS: 0, 22: 1, 24: 1, 25: 1, 26: 1, 28: 2, CREATE_PARTITIONS: 1}


class OldBroker:
    """Answers on a port of this machine; use it in a `with`."""

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._port = self._listening.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        threading.Thread(target=self._accept, name="old broker", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Without it the thread would wait in accept for ever.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="old broker's caller", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as frames:
            while size := frames.read(4):
                frame = frames.read(int.from_bytes(size))
                api, _, number = struct.unpack_from(">hhi", frame)
                answer = struct.pack(">i", number) + (self._versions() if api == API_VERSIONS else self._metadata())
                connection.sendall(struct.pack(">i", len(answer)) + answer)

    def _versions(self) -> bytes:
        found = b"".join(struct.pack(">hhh", api, 0, version) for api, version in VERSIONS.items())
        return struct.pack(">hi", 0, len(VERSIONS)) + found

    def _metadata(self) -> bytes:
        host = b"127.0.0.1"
        broker = struct.pack(">ih", 1, len(host)) + host + struct.pack(">ih", self._port, -1)
        return struct.pack(">i", 1) + broker + struct.pack(">ii", 1, 0)
