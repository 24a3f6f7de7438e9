"""The proxies that are measured, each as its users would set it up."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.common.processes import ROOT, running
from benchmarks.common.servers import (
    STAND_ALONE,
    Served,
    dialling,
    free_ports,
    serve_gunicorn,
    wait_until_served,
)
from benchmarks.speed.nginx import serve_nginx_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

PEERS_DIRECTORY: Final = Path(__file__).with_name("peers")
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

_PEERS: Final = "benchmarks.speed.peers"


@dataclass(frozen=True)
class Dial:
    """The upstream that a proxy dials instead of fal.

    Attributes:
        port: On 127.0.0.1, over TLS.
        ca_file: The authority that signed its certificate, for fal's names and for 127.0.0.1.
        threads: For a proxy that has threads.
    """

    port: int
    ca_file: Path
    threads: int = THREADS

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a proxy's process."""
        return {
            "FAL_KEY": KEY,
            "THREADS": str(self.threads),
            "UPSTREAM_PORT": str(self.port),
            "UPSTREAM_URL": f"https://127.0.0.1:{self.port}",
            "SSL_CERT_FILE": str(self.ca_file),
        }

    @property
    def own_environment(self) -> dict[str, str]:
        """The same, and the variables that make wsgi-fal-proxy dial the upstream."""
        return self.environment | dialling(self.port, self.ca_file)


@dataclass(frozen=True)
class Peer:
    """One proxy.

    Attributes:
        serve: Starts it, and stops it with the block.
        warm_requests: At least as many requests make it as fast as it gets.
        one_per_thread: Whether each request under way holds a thread.
        streams: Whether events go down as they arrive.
    """

    serve: Callable[[Dial], AbstractContextManager[Served]]
    warm_requests: int = 500
    one_per_thread: bool = False
    streams: bool = True


def _serve_gunicorn(
    dial: Dial, app: str, worker_class: str, environment: dict[str, str]
) -> AbstractContextManager[Served]:
    threads = ("--threads", str(dial.threads)) if worker_class == "gthread" else ()
    return serve_gunicorn(
        app,
        *threads,
        *("--worker-connections", "2000", "--backlog", "2048"),
        *("--keep-alive", "75", "--graceful-timeout", "1", "--log-level", "warning"),
        # With the control socket, which nobody uses here, the master needs as much memory as a
        # worker.
        "--no-control-socket",
        worker_class=worker_class,
        environment=environment,
    )


def _serve_own(dial: Dial, worker_class: str) -> AbstractContextManager[Served]:
    return _serve_gunicorn(dial, STAND_ALONE, worker_class, dial.own_environment)


def _serve_wsgi_peer(dial: Dial, app: str) -> AbstractContextManager[Served]:
    return _serve_gunicorn(dial, f"{_PEERS}.{app}", "gthread", dial.environment)


@contextlib.contextmanager
def _serve_command(
    *command: str, environment: dict[str, str], directory: Path = ROOT
) -> Iterator[Served]:
    """Serve by a program that cannot inherit a socket; {port} stands for its port."""
    (port,) = free_ports(1)
    with running(
        [part.format(port=port) for part in command],
        {**environment, "PORT": str(port)},
        directory=directory,
    ) as (process, log):
        wait_until_served(port, process, log)
        yield Served(port, process, log)


def _serve_node(dial: Dial, program: str) -> AbstractContextManager[Served]:
    node = {"NODE_ENV": "production", "NODE_EXTRA_CA_CERTS": str(dial.ca_file)}
    return _serve_command(
        *("node", "--import", "./dial.mjs", program),
        environment=dial.environment | node,
        directory=PEERS_DIRECTORY,
    )


def _serve_uvicorn(dial: Dial) -> AbstractContextManager[Served]:
    return _serve_command(
        *(sys.executable, "-m", "uvicorn", f"{_PEERS}.fastapi_app:app"),
        *("--port", "{port}", "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"),
        environment=dial.environment,
    )


def _serve_granian(dial: Dial) -> AbstractContextManager[Served]:
    return _serve_command(
        *(sys.executable, "-m", "granian", "--interface", "wsgi", "--port", "{port}"),
        *("--workers", "1", "--runtime-threads", "1", "--blocking-threads", str(dial.threads)),
        *("--backlog", "2048", "--no-ws", "--http", "1", "--log-level", "warning"),
        f"{STAND_ALONE}:application",
        environment=dial.own_environment,
    )


PEERS: Final[dict[str, Peer]] = {
    NGINX: Peer(lambda dial: serve_nginx_proxy(dial.port, dial.ca_file, KEY)),
    GRANIAN: Peer(_serve_granian, one_per_thread=True),
    GTHREAD: Peer(lambda dial: _serve_own(dial, "gthread"), one_per_thread=True),
    GEVENT: Peer(lambda dial: _serve_own(dial, "gevent")),
    HONO: Peer(lambda dial: _serve_node(dial, "hono.mjs"), warm_requests=4_000),
    EXPRESS: Peer(lambda dial: _serve_node(dial, "express.mjs"), warm_requests=4_000),
    FLASK: Peer(lambda dial: _serve_wsgi_peer(dial, "flask_app:app"), one_per_thread=True),
    WERKZEUG: Peer(
        lambda dial: _serve_wsgi_peer(dial, "werkzeug_app"),
        one_per_thread=True,
        streams=False,  # it waits until a piece is full
    ),
    FASTAPI: Peer(_serve_uvicorn),
}
"""By name, roughly from the cheapest to the dearest."""
