"""What a call may take: time, a slot, the client's patience; and what a fork leaves of it."""

from __future__ import annotations

import io
import os
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from tests.support.environs import RUN, answer_to
from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer, answering, tcp_pair
from tests.support.serving import fork, free_port
from tests.wire.test_upstream import CHUNKED, OK, get, post, proxy_to, stalling, tunnelling
from tests.wire.test_upstream import closing as hanging_up
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._core.exchange import Exchange
from wsgi_fal_proxy._core.recorder import NullRecorder
from wsgi_fal_proxy._http.request_body import RequestBody
from wsgi_fal_proxy._upstream.call import Call
from wsgi_fal_proxy._upstream.connect import _Checked, _Dialled
from wsgi_fal_proxy._upstream.pool import RelayPool
from wsgi_fal_proxy.errors import Truncated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Pair = tuple[socket.socket, socket.socket]


def one_piece(connection: Connection) -> None:
    """Begin an answer, and then be silent until the other side closes."""
    connection.read_head()
    connection.send(CHUNKED + b"3\r\none\r\n")
    connection.wait_for_close()


def start(proxy: FalProxy, **environ: Any) -> Any:
    """Make a request, and give the response iterable as it is."""
    full = {
        "REQUEST_METHOD": "GET",
        "HTTP_X_FAL_TARGET_URL": RUN,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(),
        **environ,
    }
    return proxy(full, lambda *_: lambda data: None)


# The client's patience.


@pytest.fixture
def client() -> Iterator[Pair]:
    """A client's connection: the server's end, and its own."""
    with tcp_pair() as pair:
        yield pair


def test_client_that_leaves_before_the_answer_breaks_the_call_off(
    tmp_path: Path, client: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = client
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        theirs.close()
        connection.wait_for_close()
        closed.set()

    with RawServer(script) as server:
        environ = {"gunicorn.socket": ours}
        _, headers, _ = get(proxy_to(server, tmp_path), **environ)
        assert closed.wait(WAIT_SECONDS)
    assert headers["x-fal-proxy-error"] == "client_gone"
    assert caplog.messages == []


def test_client_that_leaves_in_mid_answer_ends_it_without_an_error(
    tmp_path: Path, client: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = client
    closed = threading.Event()

    def script(connection: Connection) -> None:
        one_piece(connection)
        closed.set()

    with RawServer(script) as server:
        response = start(proxy_to(server, tmp_path), **{"gunicorn.socket": ours})
        pieces = [next(response)]
        while not pieces[-1]:  # pragma: no cover - none or one, by what came with the head
            pieces.append(next(response))
        # As the server does with it.
        ours.sendall(b"head")
        assert theirs.recv(4) == b"head"
        theirs.shutdown(socket.SHUT_WR)
        pieces += response
        assert closed.wait(WAIT_SECONDS)
        # It still reads, and must not take this for complete.
        assert theirs.recv(100) == b"truncated\r\n"
        with pytest.raises(ConnectionResetError):
            theirs.recv(100)
    assert b"".join(pieces) == b"one"
    assert caplog.messages == []


def test_client_that_has_left_before_anything_was_sent_costs_nothing(
    tmp_path: Path, client: Pair
) -> None:
    ours, theirs = client
    theirs.close()
    requests: list[bytes] = []

    def script(connection: Connection) -> None:
        connection.wait_for_close()
        requests.append(bytes(connection.received))

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        relaying_aborts(proxy)
        _, headers, _ = get(proxy, **{"gunicorn.socket": ours})
    assert headers["x-fal-proxy-error"] == "client_gone"
    assert b"".join(requests) == b""


def test_client_whose_connection_the_server_has_closed_needs_no_reset() -> None:
    body = RequestBody({"wsgi.input": io.BytesIO()}, 0)
    exchange = Exchange({}, lambda *_: lambda data: None, body, NullRecorder(), None)
    assert not exchange.end_if_client_left()
    exchange.on_client_left()
    assert exchange.end_if_client_left()


def test_call_without_a_socket_yet_can_be_broken_off() -> None:
    call = Call()
    call.abort()
    connection: Any = SimpleNamespace(sock=socket.socket())
    connection.sock.close()
    call.connection, call.is_abortable = connection, True
    call.abort()
    assert call.is_aborted


def relaying_aborts(proxy: FalProxy) -> None:
    """Have a client's leaving be noticed while the connection is being made."""
    connect = proxy._upstream._connect

    def connect_and_abort(call: Any, *more: Any) -> None:
        connect(call, *more)
        call.on_client_left()

    proxy._upstream._connect = connect_and_abort  # type: ignore[assignment,method-assign]


# Slots.


def test_max_concurrent_answers_503_to_one_more_and_releases_the_slot(tmp_path: Path) -> None:
    with RawServer(one_piece) as server:
        proxy = proxy_to(server, tmp_path, max_concurrent=1)
        for _ in range(3):
            response = start(proxy)
            status, headers, _ = get(proxy)
            assert (status, headers["x-fal-proxy-error"]) == (
                "503 Service Unavailable",
                "relay_full",
            )
            assert headers["Retry-After"] == "1"
            # Also when the server never begins to iterate, and when it closes twice.
            response.close()
            response.close()
    assert server.connections == 3


def test_max_concurrent_releases_the_slot_at_the_end_and_after_each_failure(
    tmp_path: Path,
) -> None:
    with RawServer(answering(OK, OK)) as server:
        proxy = proxy_to(server, tmp_path, max_concurrent=1)
        for _ in range(2):
            assert list(start(proxy))[-1] == b"{}"
    with RawServer(hanging_up) as server:
        proxy = proxy_to(server, tmp_path, max_concurrent=1)
        reasons = {get(proxy)[1]["x-fal-proxy-error"] for _ in range(3)}
    assert reasons == {"upstream_closed"}


def test_max_concurrent_releases_the_slot_at_an_exception_that_ends_the_server(
    tmp_path: Path,
) -> None:
    class Exiting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise SystemExit

    with RawServer(answering(OK)) as server:
        proxy = proxy_to(server, tmp_path, max_concurrent=1)
        with pytest.raises(SystemExit):
            post(proxy, b"{}", **{"wsgi.input": Exiting()})
        assert get(proxy)[0] == "200 OK"


def test_max_concurrent_releases_the_slot_of_an_answer_that_is_dropped(tmp_path: Path) -> None:
    with RawServer(one_piece) as server:
        proxy = proxy_to(server, tmp_path, max_concurrent=1)
        for _ in range(2):
            response = start(proxy)
            assert next(response) in {b"", b"one"}
            del response


# Time.


def test_total_timeout_stops_an_upload(tmp_path: Path) -> None:
    cut_off = threading.Event()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 65_536:
                assert cut_off.wait(WAIT_SECONDS)
            return super().read(size)

    def script(connection: Connection) -> None:
        with pytest.raises(ConnectionError):
            connection.read_request()
        cut_off.set()

    body = b"x" * 1_000_000
    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path, total_timeout=2)
        _, headers, _ = post(proxy, body, **{"wsgi.input": Slow(body)})
    assert headers["x-fal-proxy-error"] == "total_timeout"


def test_total_timeout_bounds_an_answer_that_does_not_begin(tmp_path: Path) -> None:
    with RawServer(stalling) as server:
        status, headers, _ = get(proxy_to(server, tmp_path, total_timeout=2))
    assert (status, headers["x-fal-proxy-error"]) == ("500 Internal Server Error", "total_timeout")


def test_total_timeout_bounds_an_answer_that_goes_on_and_on(tmp_path: Path) -> None:
    stop = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(CHUNKED)
        while not stop.wait(0.02):
            connection.send(b"1\r\nx\r\n")

    with RawServer(script) as server:
        with pytest.raises(Truncated):
            get(proxy_to(server, tmp_path, total_timeout=2, read_timeout=None))
        stop.set()


def test_total_timeout_does_not_hurt_what_ends_in_time(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        assert get(proxy_to(server, tmp_path, total_timeout=WAIT_SECONDS))[2] == b"{}"


def test_upstream_relays_an_answer_that_comes_while_fal_reads_no_further(tmp_path: Path) -> None:
    done = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        assert done.wait(WAIT_SECONDS)

    with RawServer(script, tls=False) as server:
        status, _, _ = post(proxy_to(server, tmp_path, read_timeout=0.3), b"x" * 20_000_000)
        done.set()
    assert status == "413 Too Large"


# Several addresses, as the default pool manager dials them.


@pytest.fixture
def dead() -> Iterator[int]:
    """A port where no connection is accepted: whoever connects, waits."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def addresses(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))
        for port in ports
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: found)


def manager_of(proxy: FalProxy) -> urllib3.PoolManager:
    return proxy._upstream._pools._manager


def dialling_addresses(ca_file: Path | None, **options: Any) -> FalProxy:
    proxy = FalProxy(key="k", **options)
    if ca_file is not None:
        manager_of(proxy).connection_pool_kw["ssl_context"].load_verify_locations(ca_file)
    return proxy


def test_connect_timeout_leaves_the_next_address_its_time(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answering(OK)) as server:
        server.pool_manager(tmp_path)
        addresses(monkeypatch, dead, server.port)
        proxy = dialling_addresses(tmp_path / "ca.pem", connect_timeout=1)
        assert get(proxy)[0] == "200 OK"
        proxy._upstream._pools.reset_after_fork()


def test_connect_timeout_answers_504_if_no_address_answers(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses(monkeypatch, dead, dead)
    _, headers, _ = get(dialling_addresses(None, connect_timeout=0.3))
    assert headers["x-fal-proxy-error"] == "connect_timeout"


def test_upstream_answers_502_if_there_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses(monkeypatch)
    _, headers, _ = get(dialling_addresses(None, connect_timeout=None))
    assert headers["x-fal-proxy-error"] == "upstream_unreachable"


def test_upstream_answers_502_if_all_addresses_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    addresses(monkeypatch, port, port)
    _, headers, _ = get(dialling_addresses(None, connect_timeout=None))
    assert headers["x-fal-proxy-error"] == "upstream_unreachable"


def test_pool_manager_by_default_makes_connections_of_ours() -> None:
    pool = FalProxy(key="k")._upstream._pools.pool_for("fal.run")
    assert isinstance(pool, RelayPool)
    assert issubclass(pool.ConnectionCls, _Checked)
    assert issubclass(pool.ConnectionCls, _Dialled)


# TLS within TLS.


def test_pool_sees_what_comes_uncalled_for_within_an_egress_proxys_tls(
    tmp_path: Path,
) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(OK)
        connection.send(OK.replace(b"{}", b"[]"))
        connection.end()

    requests: list[bytes] = []
    with RawServer(script) as upstream:
        tunnel = tunnelling(upstream.port, requests, b"HTTP/1.1 200 Connected\r\n\r\n")
        with RawServer(tunnel, hosts=("127.0.0.1",)) as egress:
            trusted = upstream.pool_manager(tmp_path).connection_pool_kw["ssl_context"]
            assert egress.authority is not None
            trusted.load_verify_locations(cadata=egress.authority.cert_pem.bytes().decode())
            manager = urllib3.ProxyManager(
                f"https://127.0.0.1:{egress.port}", ssl_context=trusted, proxy_ssl_context=trusted
            )
            proxy = FalProxy(key="k", pool_manager=manager)
            assert [get(proxy)[2] for _ in range(3)] == [b"{}"] * 3
    assert len(requests) == 3


# Forks.


def test_fork_gives_a_child_connections_of_its_own(tmp_path: Path) -> None:
    def script(connection: Connection) -> None:
        while True:
            connection.read_head()
            content = b"%d" % connection.number
            connection.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
            )

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        assert get(proxy)[2] == b"1"
        child = fork()
        if child == 0:  # pragma: no cover - another process
            os._exit(0 if get(proxy)[2] == b"2" else 1)
        assert os.waitpid(child, 0)[1] == 0
        # And the parent's is still its own.
        assert get(proxy)[2] == b"1"
        proxy._upstream._pools.reset_after_fork()


def test_fork_with_a_lock_that_a_thread_held_does_not_stop_the_child(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        proxy = proxy_to(server, tmp_path)
        get(proxy)
        pools = proxy._upstream._pools._own.pools
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with pools.lock:
                held.set()
                assert release.wait(WAIT_SECONDS)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(WAIT_SECONDS)
        proxy._upstream._pools.reset_after_fork()
        release.set()
        thread.join(WAIT_SECONDS)
        assert answer_to(proxy, HTTP_X_FAL_TARGET_URL=RUN)[0] == "200 OK"
        assert proxy._upstream._pools._own.pools is not pools
        proxy._upstream._pools.reset_after_fork()


def test_call_closes_no_connection_before_it_has_one() -> None:
    call = Call()
    call.close_connection()
    assert call.connection is None


def test_total_timeout_that_is_over_before_anything_is_sent_keeps_the_call_from_fal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[bytes] = []

    def script(connection: Connection) -> None:
        with pytest.raises(ConnectionError):
            arrived.append(connection.read_head())

    monkeypatch.setattr("wsgi_fal_proxy._upstream.call.Call.has_timed_out", lambda _: True)
    with RawServer(script) as server:
        _, headers, _ = get(proxy_to(server, tmp_path, total_timeout=WAIT_SECONDS))
    assert headers["x-fal-proxy-error"] == "total_timeout"
    assert arrived == []
