"""The proxies that this one is measured against, each as its users would set it up."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.harness import STAND_ALONE, wait_until_served
from benchmarks.nginx import serve_nginx_proxy
from tests.support.serving import ROOT, Served, running, serve_gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

DIRECTORY: Final = Path(__file__).parent
KEY: Final = "benchmark-key"
THREADS: Final = 64

EXPRESS: Final = "fal's proxy on Express"
HONO: Final = "fal's proxy on Hono"
FLASK: Final = "Flask, requests; gunicorn gthread"
FASTAPI: Final = "FastAPI, httpx; uvicorn"
WERKZEUG: Final = "Werkzeug's proxy; gunicorn gthread"
NGINX: Final = "nginx"
GTHREAD: Final = "wsgi-fal-proxy; gunicorn gthread"
GEVENT: Final = "wsgi-fal-proxy; gunicorn gevent"
GRANIAN: Final = "wsgi-fal-proxy; granian"
OURS: Final = (GTHREAD, GEVENT, GRANIAN)


@dataclass(frozen=True)
class Dial:
    """What is dialled in fal's place.

    Attributes:
        port: On 127.0.0.1.
        ca_file: Of the authority that vouches for it under fal's names, and as 127.0.0.1.
        threads: How many a proxy has that has threads.
    """

    port: int
    ca_file: Path
    threads: int = THREADS

    @property
    def environment(self) -> dict[str, str]:
        """What a proxy's process is told by."""
        return {
            "FAL_KEY": KEY,
            "THREADS": str(self.threads),
            "UPSTREAM_PORT": str(self.port),
            "UPSTREAM_URL": f"https://127.0.0.1:{self.port}",
            "SSL_CERT_FILE": str(self.ca_file),
        }


@dataclass(frozen=True)
class Peer:
    """One proxy.

    Attributes:
        serve: Starts it, and stops it at the block's end.
        warm_requests: How many it needs, at least, to be as fast as it gets.
        one_per_thread: Whether each request that is under way holds a thread.
        streams: Whether events go down as they come.
    """

    serve: Callable[[Dial], AbstractContextManager[Served]]
    warm_requests: int = 500
    one_per_thread: bool = False
    streams: bool = True


@contextlib.contextmanager
def _serve_gunicorn(dial: Dial, app: str, worker_class: str, *paths: Path) -> Iterator[Served]:
    threads = ("--threads", str(dial.threads)) if worker_class == "gthread" else ()
    options = (
        *threads,
        *("--worker-connections", "2000", "--backlog", "2048"),
        *("--keep-alive", "75", "--graceful-timeout", "1", "--log-level", "warning"),
        # For a tool that nobody uses here, the master would take as much memory as the proxy.
        "--no-control-socket",
    )
    path = os.pathsep.join(map(str, (*paths, ROOT)))
    environment = {**dial.environment, "PYTHONPATH": path}
    with serve_gunicorn(
        app, *options, worker_class=worker_class, environment=environment
    ) as served:
        yield served


@contextlib.contextmanager
def _serve_command(
    dial: Dial,
    *command: str,
    environment: dict[str, str] | None = None,
    directory: Path = ROOT,
) -> Iterator[Served]:
    """Serve by a program that cannot be handed a socket; {port} stands for its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running(
        [part.format(port=port) for part in command],
        {**dial.environment, "PORT": str(port), **(environment or {})},
        directory=directory,
    ) as (process, log):
        wait_until_served(port, process, log)
        yield Served(port, process, log)


def _serve_node(dial: Dial, program: str) -> AbstractContextManager[Served]:
    return _serve_command(
        dial,
        *("node", "--import", "./dial.mjs", program),
        environment={"NODE_ENV": "production", "NODE_EXTRA_CA_CERTS": str(dial.ca_file)},
        directory=DIRECTORY,
    )


def _serve_uvicorn(dial: Dial) -> AbstractContextManager[Served]:
    return _serve_command(
        dial,
        *(sys.executable, "-m", "uvicorn", "benchmarks.peers.fastapi_app:app"),
        *("--port", "{port}", "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"),
    )


def _serve_granian(dial: Dial) -> AbstractContextManager[Served]:
    return _serve_command(
        dial,
        *(sys.executable, "-m", "granian", "--interface", "wsgi", "--port", "{port}"),
        *("--workers", "1", "--runtime-threads", "1", "--blocking-threads", str(dial.threads)),
        *("--backlog", "2048", "--no-ws", "--http", "1", "--log-level", "warning"),
        f"{STAND_ALONE}:application",
        environment={"PYTHONPATH": os.pathsep.join((str(_DIALLING), str(ROOT)))},
    )


_DIALLING: Final = ROOT / "benchmarks" / "dialling"

PEERS: Final[dict[str, Peer]] = {
    NGINX: Peer(lambda dial: serve_nginx_proxy(dial.port, dial.ca_file, KEY)),
    GRANIAN: Peer(_serve_granian, one_per_thread=True),
    GTHREAD: Peer(
        lambda dial: _serve_gunicorn(dial, STAND_ALONE, "gthread", _DIALLING), one_per_thread=True
    ),
    GEVENT: Peer(lambda dial: _serve_gunicorn(dial, STAND_ALONE, "gevent", _DIALLING)),
    HONO: Peer(lambda dial: _serve_node(dial, "hono.mjs"), warm_requests=4_000),
    EXPRESS: Peer(lambda dial: _serve_node(dial, "express.mjs"), warm_requests=4_000),
    FLASK: Peer(
        lambda dial: _serve_gunicorn(dial, "benchmarks.peers.flask_app:app", "gthread"),
        one_per_thread=True,
    ),
    WERKZEUG: Peer(
        lambda dial: _serve_gunicorn(dial, "benchmarks.peers.werkzeug_app", "gthread"),
        one_per_thread=True,
        streams=False,  # it waits until a piece is full
    ),
    FASTAPI: Peer(_serve_uvicorn),
}
"""By name, about from the cheapest to the dearest."""
