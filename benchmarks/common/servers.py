"""Servers that the benchmarks run, and the environment that makes a proxy dial the upstream."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.common.processes import ROOT, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

STAND_ALONE: Final = "wsgi_fal_proxy.wsgi"

_DIALLING: Final = Path(__file__).with_name("dialling")
_LISTEN_SECONDS: Final = 10.0
_WORKERS_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        port: On 127.0.0.1.
        process: Its main process.
        log: The file with its output.
    """

    port: int
    process: subprocess.Popen[bytes]
    log: Path


def dialling(port: int, ca_file: Path, project: Path = ROOT) -> dict[str, str]:
    """Return the variables that make a Python program dial the upstream for fal.run.

    Args:
        port: The upstream's, on 127.0.0.1.
        ca_file: The authority that signed the upstream's certificate.
        project: The root of the checkout from which the program imports modules.
    """
    return {
        "UPSTREAM_PORT": str(port),
        "SSL_CERT_FILE": str(ca_file),
        "PYTHONPATH": os.pathsep.join((str(_DIALLING), str(project))),
    }


@contextlib.contextmanager
def serve_gunicorn(
    app: str, *options: str, worker_class: str, environment: Mapping[str, str]
) -> Iterator[Served]:
    """Serve an application by gunicorn.

    gunicorn inherits a listening socket, so that no other program can take the port, and a
    connection that comes before gunicorn is ready waits for it.

    Args:
        app: As on gunicorn's command line.
        options: More command-line options.
        worker_class: gunicorn's `--worker-class`.
        environment: Variables to add to the inherited ones.
    """
    with contextlib.ExitStack() as stack:
        # Only gunicorn keeps the socket open: once it has stopped, connections are refused.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # As gunicorn does for its own sockets; accepted connections inherit the option.
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


def free_ports(count: int) -> list[int]:
    """Find free ports on 127.0.0.1, for programs that cannot inherit a socket."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in free]


def wait_until_served(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the program accepts connections on the port.

    Raises:
        RuntimeError: It does not within 10 s. The message has its log.
    """
    end = monotonic() + _LISTEN_SECONDS
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        if monotonic() > end:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()}")
        sleep(0.01)


def workers(served: Served, count: int = 1) -> list[int]:
    """Wait until gunicorn has at least `count` workers, and return their process ids.

    Raises:
        TimeoutError: It does not have them within 60 s.
    """
    end = monotonic() + _WORKERS_SECONDS
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    while len(found := children.read_text().split()) < count:
        if monotonic() > end:
            raise TimeoutError(f"gunicorn did not start {count} workers")
        sleep(0.01)
    return [int(pid) for pid in found]
