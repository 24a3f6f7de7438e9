"""The internals of other packages that we use exist, and do what we expect of them.

The list is in `docs/architecture.md`. Each test here runs against the real package.
"""

from __future__ import annotations

import _socket
import json
import shlex
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.util.ssltransport import SSLTransport

from tests.support.environs import RUN, answer_to
from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer, tcp_pair
from tests.support.servers import SERVERS, _found
from tests.support.serving import ROOT, Served, serve_command
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._http.request_body import PIECE_BYTES
from wsgi_fal_proxy._upstream.call import _shut_down
from wsgi_fal_proxy._upstream.connect import connection_class
from wsgi_fal_proxy._upstream.lookup import Lookup
from wsgi_fal_proxy._upstream.pool import Pools, RelayPool
from wsgi_fal_proxy.errors import Truncated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network import NetworkGuard

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

# Servers.

# Says what it finds, and then breaks its answer off if it is asked to.
APPLICATION = """
import json
import os
import socket

from wsgi_fal_proxy._downstream.connection import break_framing, client_connection
from wsgi_fal_proxy._http.request_body import RequestBody

sizes = []
receive = socket.socket.recv


def recording(self, size, *flags):
    sizes.append(size)
    return receive(self, size, *flags)


socket.socket.recv = recording


def application(environ, start_response):
    sizes.clear()
    body = RequestBody(environ, 10_000_000)
    body.accept()
    length = len(body.read_ahead()) + sum(map(len, body.rest()))
    fd, sock = client_connection(environ)
    with socket.socket(fileno=os.dup(fd)) as client:
        peer = client.getpeername()
    report = {"length": length, "largest": max(sizes, default=0), "peer": peer}
    start_response("200 OK", [("Content-Type", "application/json")])
    yield json.dumps(report).encode()
    if environ["PATH_INFO"] == "/break":
        yield b"x" * 8_000_000  # more than the system takes at once
        break_framing(environ)
        raise RuntimeError
"""
EXPOSE = ("gunicorn sync", "gunicorn gthread", "gunicorn gevent", "waitress", "werkzeug", "uwsgi")
CHUNK = ("gunicorn gthread", "gunicorn gevent", "waitress", "werkzeug")


@dataclass(frozen=True)
class Client:
    served: Served

    def call(self, path: str, body: bytes = b"") -> tuple[list[Any], bytes]:
        """Give the client's own address, and all that the server answers."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        address = ("127.0.0.1", self.served.port)
        with socket.create_connection(address, WAIT_SECONDS) as connection:
            connection.sendall(head.encode() + body)
            received = b""
            while data := connection.recv(65_536):
                received += data
            return list(connection.getsockname()), received

    def report(self, body: bytes = b"") -> tuple[list[Any], dict[str, Any]]:
        address, answer = self.call("/", body)
        start, end = answer.find(b"{"), answer.find(b"}")
        report: dict[str, Any] = json.loads(answer[start : end + 1])
        return address, report


@pytest.fixture(scope="module")
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A server that runs the application above by the README's command."""
    directory = tmp_path_factory.mktemp("reporting")
    (directory / "reporting.py").write_text(APPLICATION)
    command = SERVERS[request.param].command
    if "wsgi_fal_proxy.wsgi" in command:
        command = command.replace("wsgi_fal_proxy.wsgi", "reporting")
    else:
        command += " reporting:application"
    if request.param == "uwsgi":
        command += f" --virtualenv {sys.prefix}"
    program, *arguments = shlex.split(command.replace("8000", "{port}"))
    environment = {"PYTHONPATH": f"{directory}:{ROOT}", "FAL_KEY": "k"}
    with serve_command(environment, *arguments, program=_found(program)) as served:
        yield Client(served)


@pytest.mark.parametrize("client", EXPOSE, indirect=True)
def test_server_hands_over_its_connection_to_the_client(client: Client) -> None:
    address, report = client.report()
    assert report["peer"] == address


@pytest.mark.parametrize(
    "client", [name for name in EXPOSE if name.startswith("gunicorn")], indirect=True
)
def test_server_reads_no_further_ahead_than_one_piece(client: Client) -> None:
    body = bytes(10 * PIECE_BYTES)
    _, report = client.report(body)
    assert (report["length"], report["largest"]) == (len(body), PIECE_BYTES)


@pytest.mark.parametrize("client", CHUNK, indirect=True)
def test_server_sends_what_breaks_the_framing_after_what_it_has(client: Client) -> None:
    _, answer = client.call("/break")
    assert b"x\r\ntruncated\r\n" in answer[-1_000:]


# urllib3.


class Recording(HTTPSConnectionPool):
    """urllib3's pool, which tells what its own `urlopen` calls."""

    calls: list[str]

    def _new_conn(self) -> Any:
        self.calls.append("_new_conn")
        return super()._new_conn()

    def _get_conn(self, timeout: float | None = None) -> Any:
        self.calls.append("_get_conn")
        return super()._get_conn(timeout)

    def _prepare_proxy(self, conn: Any) -> None:
        self.calls.append("_prepare_proxy")
        super()._prepare_proxy(conn)

    def _validate_conn(self, conn: Any) -> None:
        self.calls.append("_validate_conn")
        super()._validate_conn(conn)
        assert not conn.is_closed

    def _put_conn(self, conn: Any) -> None:
        self.calls.append("_put_conn")
        super()._put_conn(conn)


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
def test_urllib3_pool_uses_the_methods_that_relay_pool_uses(tmp_path: Path, proxied: bool) -> None:
    def script(connection: Connection) -> None:
        if proxied:
            connection.read_head()
            connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            assert server._context is not None
            connection.start_tls(server._context)
        connection.read_request()
        connection.send(OK)

    with RawServer(script, plain=(1,) if proxied else ()) as server:
        options = server.pool_manager(tmp_path).connection_pool_kw
        options |= {"server_hostname": "fal.run"}
        if proxied:
            options["_proxy"] = urllib3.util.parse_url(f"http://127.0.0.1:{server.port}")
        with Recording("127.0.0.1", server.port, **options) as pool:
            pool.calls = []
            assert pool.request("GET", "/").data == b"{}"
    tunnel = ["_prepare_proxy"] if proxied else []
    assert pool.calls == ["_get_conn", "_new_conn", *tunnel, "_validate_conn", "_put_conn"]


def test_urllib3_connection_dials_by_the_method_that_is_overridden(network: NetworkGuard) -> None:
    connection = connection_class(HTTPConnection)("fal.run.", 80)
    with tcp_pair() as (ours, _):
        connection._new_conn = lambda: ours
        connection.connect()
        assert connection.sock is ours
        del connection._new_conn
    with pytest.raises(urllib3.exceptions.NameResolutionError):
        connection.look_up(Lookup(), None)
    # With the dot, which a certificate's name does not have.
    assert (network.lookups, connection.host) == (["fal.run."], "fal.run")
    with pytest.raises(urllib3.exceptions.NewConnectionError) as caught:
        connection.connect()
    assert "_new_conn" in {entry.name for entry in caught.traceback}


def managers() -> list[urllib3.PoolManager]:
    from urllib3.contrib.socks import SOCKSProxyManager  # noqa: PLC0415 - it is not always there

    return [
        urllib3.PoolManager(),
        urllib3.ProxyManager("http://127.0.0.1:1"),
        SOCKSProxyManager("socks5h://127.0.0.1:1"),
    ]


def test_urllib3_manager_makes_pools_by_what_its_copy_replaces() -> None:
    pytest.importorskip("socks")
    for manager in managers():
        pools = Pools(manager)
        made: Any = pools.pool_for("fal.run")
        of_the_manager = manager.connection_from_host("fal.run", 443, "https")
        assert isinstance(made, RelayPool)
        assert isinstance(made, type(of_the_manager))
        assert not isinstance(of_the_manager, RelayPool)
        assert made.proxy == of_the_manager.proxy
        assert list(manager.pools.keys()) == list(pools._own.pools.keys())
        manager.clear()
        assert pools.pool_for("fal.run") is made


# Python.


def cut(connection: Connection) -> None:
    """Answer without a length, and end the connection without TLS's closing alert."""
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n{}")


def test_suppress_ragged_eofs_off_tells_a_cut_from_an_end(tmp_path: Path) -> None:
    with RawServer(cut) as server:
        manager = server.pool_manager(tmp_path)
        proxy = FalProxy(key="k", pool_manager=manager)
        with pytest.raises(Truncated):
            answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN)
        context: ssl.SSLContext = manager.connection_pool_kw["ssl_context"]
        with (
            socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as sock,
            SSLTransport(sock, context, "fal.run") as transport,
        ):
            assert transport.suppress_ragged_eofs
            transport.suppress_ragged_eofs = False
            transport.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert bytes(transport.recv(65_536)).endswith(b"{}")
            with pytest.raises(ssl.SSLEOFError):
                transport.recv(65_536)


def test_socket_module_shuts_down_a_descriptor_and_leaves_it_open() -> None:
    assert issubclass(socket.socket, _socket.socket)
    with tcp_pair() as (ours, theirs):
        _shut_down(ours.fileno())
        assert theirs.recv(1) == b""
        assert ours.recv(1) == b""


# gevent.

UNPATCHED = """
import _thread, queue, select, socket
names = [(_thread, "allocate_lock"), (_thread, "start_new_thread"), (queue, "SimpleQueue"),
         (select, "epoll"), (select, "poll")]
before = {name: getattr(module, name) for module, name in names}

from gevent import monkey
if FIRST:
    from wsgi_fal_proxy._process import unpatched
monkey.patch_all()
from wsgi_fal_proxy._process import unpatched

for module, name in names:
    assert getattr(unpatched, name) is before[name], name
    assert getattr(module, name, None) is not before[name], name
assert unpatched.gevent_owns_sockets()
"""
NOT_PATCHED = """
from gevent import monkey
from wsgi_fal_proxy._process import unpatched
assert not unpatched.gevent_owns_sockets()
monkey.patch_all(socket=False, dns=False)
assert not unpatched.gevent_owns_sockets()
"""


@pytest.mark.parametrize(
    "program",
    [f"FIRST = True\n{UNPATCHED}", f"FIRST = False\n{UNPATCHED}", NOT_PATCHED],
    ids=["imported-before", "imported-after", "without-sockets"],
)
def test_gevent_gives_the_originals_and_says_what_it_has_replaced(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
