"""Brokers for the tests and the bench: the embedded one, and Apache Kafka in a Java process.

`python tests/brokers.py [--port N]` starts an Apache Kafka, prints its address and runs until it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from locks import made_by_one

from engine.kafka.broker import EmbeddedBroker, die_with_parent

HERE = Path(__file__).resolve().parent
POM = HERE / "kafka" / "pom.xml"
JARS = HERE / "kafka" / "jars"
# Written after Maven's last jar, with the pom that asked for them: half a download is no download.
STAMP = JARS / ".complete"

JAVA_NEEDED = 17
START_DEADLINE = 60.0
STOP_DEADLINE = 10.0
CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"

SERVER = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
message.max.bytes=115343360
replica.fetch.max.bytes=115343360
socket.request.max.bytes=125829120
num.io.threads=2
num.network.threads=2
background.threads=2
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=8388608
# Tests move time: a group may ask for a session of one second, a transaction is looked at ten times as often.
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
"""

LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
rootLogger.level = error
rootLogger.appenderRef.out.ref = out
"""


class NotHere(Exception):
    """Apache Kafka cannot be started on this machine, for want of a tool or its jars."""


def kafka_missing() -> str | None:
    """What keeps Apache Kafka from running here, or None."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if missing == ["mvn"] and _jars_complete():
        missing = []
    if missing:
        return f"no {'/'.join(missing)} on the PATH"
    version = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', version.stderr)
    if found is None or int(found[1]) < JAVA_NEEDED:
        said = version.stderr.strip().splitlines()[:1] or ["nothing"]
        return f"Java {JAVA_NEEDED} is needed, and java -version says {said[0]}"
    return None


def ensure_jars() -> None:
    """Have Maven fetch Apache Kafka's jars into tests/kafka/jars, once; raises NotHere with its complaint."""
    with made_by_one("kafka"):
        if not _jars_complete():
            _fetch_jars()


def _fetch_jars() -> None:
    shutil.rmtree(JARS, ignore_errors=True)
    done = subprocess.run(
        [
            *("mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={JARS}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line][:3]
        raise NotHere(f"mvn cannot fetch Apache Kafka's jars: {' '.join(said)}")
    STAMP.write_text(POM.read_text())


def _jars_complete() -> bool:
    return STAMP.is_file() and STAMP.read_text() == POM.read_text()


class ApacheKafka:
    """One KRaft node of Apache Kafka, its data in a temporary folder (`within` another); it dies with its parent."""

    def __init__(self, port: int = 0, *, heap_mb: int = 512, within: str | None = None) -> None:
        self._wanted_port, self._heap_mb, self._within = port, heap_mb, within
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Format, start and wait for an answer; raises NotHere without Java or jars, else RuntimeError."""
        reason = kafka_missing()
        if reason:
            raise NotHere(reason)
        ensure_jars()
        self._folder = Path(tempfile.mkdtemp(prefix="millrace-kafka-", dir=self._within))
        try:
            port, controller = free_ports(self._wanted_port)
            self.address = f"127.0.0.1:{port}"
            settings, logging = self._folder / "server.properties", self._folder / "log4j2.properties"
            settings.write_text(self._settings(port, controller, self._folder / "data"))
            logging.write_text(LOGGING)
            self._format(settings)
            self._launch(settings, logging)
            self._wait_until_it_serves()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it and remove its data; twice is harmless."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _settings(self, port: int, controller: int, data: Path) -> str:
        return SERVER.format(port=port, controller=controller, data=data)

    def _format(self, settings: Path) -> None:
        # C1 only: this process lives for a second, which an optimising compiler would spend on itself.
        done = subprocess.run(
            [
                *_java("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
                *("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(settings)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Apache Kafka's storage cannot be formatted:\n{done.stdout}{done.stderr}")

    def _launch(self, settings: Path, logging: Path) -> None:
        assert self._folder is not None
        with (self._folder / "broker.log").open("wb") as log:
            self._process = subprocess.Popen(
                die_with_parent(
                    [
                        *_java(f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={logging}"),
                        *("kafka.Kafka", str(settings)),
                    ]
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_it_serves(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"Apache Kafka ended with {self._process.returncode}:\n{self.said()}")
            if serves(self.address):
                return
            time.sleep(0.1)
        raise RuntimeError(f"Apache Kafka gave no answer within {START_DEADLINE:.0f} s:\n{self.said()}")

    def said(self) -> str:
        """The end of what it has printed: errors alone."""
        assert self._folder is not None
        return (self._folder / "broker.log").read_text(errors="replace")[-3000:]


class EmbeddedInThread:
    """The embedded broker, its loop in a thread of its own, for fixtures that are not coroutines.

    The thread lives as long as the broker: the kernel ends the broker with the thread that started it.
    """

    def __init__(self, listen: str = "127.0.0.1:0") -> None:
        self._broker = EmbeddedBroker(listen)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedded broker", daemon=True)

    @property
    def address(self) -> str:
        return self._broker.address

    def start(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._broker.start(), self._loop).result()
        except BaseException:
            self._end()
            raise
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._broker.stop(), self._loop).result()
        self._end()

    def kill(self) -> None:
        """SIGKILL: nobody is told, and its data is gone."""
        assert self._broker.pid is not None
        os.kill(self._broker.pid, signal.SIGKILL)

    def again(self) -> Self:
        """Start it anew, with nothing in it, at the same address if that was named."""
        asyncio.run_coroutine_threadsafe(self._broker.stop(), self._loop).result()
        asyncio.run_coroutine_threadsafe(self._broker.start(), self._loop).result()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def serves(address: str) -> bool:
    """Whether a broker at `address` answers a metadata request that names at least itself."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host, int(port)), 1).close()
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        # Its log lines about refused connections go nowhere: they are what is waited for.
        admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        with contextlib.suppress(KafkaException):
            return bool(admin.list_topics(timeout=2).brokers)
    return False


def _java(*options: str) -> list[str]:
    java = shutil.which("java")
    assert java is not None
    return [java, *options, "-Xshare:auto", "-cp", f"{JARS}{os.sep}*"]


def free_ports(wanted: int) -> tuple[int, int]:
    """Two ports of this machine that nobody listens on; the first is the wanted one, if there is one."""
    with socket.socket() as first, socket.socket() as second:
        for taken, port in ((first, wanted), (second, 0)):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
        return int(first.getsockname()[1]), int(second.getsockname()[1])


def main() -> None:
    """Start an Apache Kafka, print its address, run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    arguments = parser.parse_args()
    # Both signals unwind the with block, which ends the broker and removes its data.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with ApacheKafka(arguments.port) as kafka, contextlib.suppress(KeyboardInterrupt):
            print(kafka.address, flush=True)  # noqa: T201 - the output of this program
            signal.pause()
    except NotHere as reason:
        sys.exit(f"no Apache Kafka: {reason}")


if __name__ == "__main__":
    main()
