"""The fault suite's own Apache Kafka: it can be killed, stopped, frozen, and started again on the same data."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from brokers import ApacheKafka

CLEAN_STOP_SECONDS = 30.0


class FragileKafka(ApacheKafka):
    """An Apache Kafka that survives its own death: the port and the data stay."""

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

    def again(self) -> Self:
        """Start it on the same data and the same port, and wait until it answers."""
        assert self._folder is not None
        self._launch(self._folder / "server.properties", self._folder / "log4j2.properties")
        self._wait_until_it_serves()
        return self
