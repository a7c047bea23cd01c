"""The fault suite's own Apache Kafka: it can be killed, stopped, frozen, and started again on the same data."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from brokers import ApacheKafka, EmbeddedInThread, free_ports
from proxy import Proxy

__all__ = ["EmbeddedInThread", "FragileKafka", "free_ports"]

CLEAN_STOP_SECONDS = 30.0

# A second way in, by which clients that come through the proxy are sent back to the proxy.
PROXIED = """
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{outer}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
"""


class FragileKafka(ApacheKafka):
    """An Apache Kafka that survives its own death: the port and the data stay. `proxy` stands before a second port."""

    def _settings(self, port: int, controller: int, data: Path) -> str:
        inner, _ = free_ports(0)
        self.proxy = Proxy(inner).start()
        own = PROXIED.format(port=port, inner=inner, outer=self.proxy.port, controller=controller)
        return super()._settings(port, controller, data) + own

    def stop(self) -> None:
        """As said, with the proxy."""
        self.proxy.stop()
        super().stop()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """SIGTERM: it hands everything over and says good-bye, after which old clients never recovered."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(CLEAN_STOP_SECONDS)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """Let none of its files grow any more, as on a full disk: it ends by that, and starts with room again."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def wait(self) -> None:
        """Until it has ended by itself."""
        assert self._process is not None
        self._process.wait(CLEAN_STOP_SECONDS)

    def again(self) -> Self:
        """Start it on the same data and the same port, and wait until it answers."""
        assert self._folder is not None
        self._launch(self._folder / "server.properties", self._folder / "log4j2.properties")
        self._wait_until_it_serves()
        return self
