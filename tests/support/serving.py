"""Real WSGI servers, each a process of its own on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from glob import iglob
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from tests.support.raw_server import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.raw_server import RawServer
    from wsgi_fal_proxy.testing import FakeFal

ROOT = Path(__file__).parents[2]
JS = ROOT / "tests" / "support" / "js"


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        port: Where on 127.0.0.1.
        process: Its (main) process.
        log: The file that has what it wrote.
    """

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serve_gunicorn(
    app: str,
    *options: str,
    worker_class: str = "gthread",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Serve an application by gunicorn.

    The socket is made here and handed down, so that the port cannot be taken in between, and a
    connection made before gunicorn is ready waits for it.

    Args:
        app: As on gunicorn's command line, importable from the project's root.
        options: More of its options.
        worker_class: Its kind of worker.
        environment: Variables besides the tests' own.
    """
    with contextlib.ExitStack() as stack:
        # Only gunicorn keeps it open, so that without gunicorn a connection is refused.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # As gunicorn does for a socket that it makes; connections have it from the listener.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            port = listener.getsockname()[1]
            command = [
                *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}"),
                *("--worker-class", worker_class, *options, app),
            ]
            process, log = stack.enter_context(
                running(command, environment, pass_fds=(listener.fileno(),))
            )
        yield Served(port, process, log)


@contextlib.contextmanager
def running(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    directory: Path = ROOT,
    stdout: int | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a command in a process group of its own, which is ended with the block.

    Args:
        command: The program and its arguments. It finds the project's modules wherever it runs.
        environment: Variables besides the tests' own.
        directory: Where it runs.
        stdout: `subprocess.PIPE` to read what it writes; None to have that in the log.
        pass_fds: File descriptors that it keeps.

    Returns:
        The process, and the file that has what it wrote.
    """
    with tempfile.TemporaryDirectory() as own:
        log = Path(own, "log")
        inherited = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": own}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={**inherited, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        try:
            yield process, log
        finally:
            end(process)


def dialling(fal: FakeFal) -> dict[str, str]:
    """Give the environment in which a program's default pool manager dials the fake fal."""
    return {
        "FAL_KEY": fal.key,
        "FAKE_FAL_PORT": str(fal.port),
        "FAKE_FAL_CA_FILE": str(fal.ca_file),
        "PYTHONPATH": os.pathsep.join((str(ROOT / "tests" / "support" / "dialling"), str(ROOT))),
    }


def wait_for_port(port: int) -> None:
    """Wait until something listens there; for programs that cannot be handed a socket."""
    end = monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert monotonic() < end, f"nothing listens on port {port}"
        sleep(0.01)


def fork() -> int:
    """Fork this process although it has threads, against which Python warns since 3.12.

    For tests of the child: that it works all the same.
    """
    with warnings.catch_warnings():
        message = "This process .* is multi-threaded"
        warnings.filterwarnings("ignore", message, DeprecationWarning)
        return os.fork()


def other_end(client: socket.socket) -> str:
    """Name the server's end of a connection over loopback, as /proc names what processes hold."""
    ends = [f"0100007F:{port:04X}" for _, port in (client.getpeername(), client.getsockname())]
    connections = map(str.split, Path("/proc/net/tcp").read_text().splitlines())
    (inode,) = (fields[9] for fields in connections if fields[1:3] == ends)
    return f"socket:[{inode}]"


def wait_for_close(name: str) -> None:
    """Wait until no process holds this socket: the server has done all it does for it."""
    end = monotonic() + WAIT_SECONDS
    while _is_held(name):
        assert monotonic() < end, f"{name} is not closed"
        sleep(0.01)


def _is_held(name: str) -> bool:
    # Unlike pathlib's, this glob passes over processes that end meanwhile.
    for descriptor in iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) == name:
                return True
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process group to end, then make it: what its leader leaves behind, too."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, request)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WAIT_SECONDS)
    if process.stdout is not None:
        process.stdout.close()


def dialling_raw(server: RawServer, directory: Path) -> dict[str, str]:
    """Give the environment in which a program's default pool manager dials a raw server."""
    server.pool_manager(directory)
    return {
        "FAL_KEY": "k",
        "FAKE_FAL_PORT": str(server.port),
        "FAKE_FAL_CA_FILE": str(directory / "ca.pem"),
        "PYTHONPATH": os.pathsep.join((str(ROOT / "tests" / "support" / "dialling"), str(ROOT))),
    }


@contextlib.contextmanager
def serve_command(
    environment: Mapping[str, str], *command: str, program: str = sys.executable
) -> Iterator[Served]:
    """Serve by a command in which {port} stands for a port that is free.

    Args:
        environment: Variables besides the tests' own.
        command: The arguments.
        program: Python, or another program that serves.
    """
    port = free_port()
    arguments = [program, *(part.format(port=port) for part in command)]
    with running(arguments, environment) as (process, log):
        wait_for_port(port)
        yield Served(port, process, log)


def free_port() -> int:
    """Find a port that is free, for programs that cannot be handed a socket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
