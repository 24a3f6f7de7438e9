"""How long connections to fal are kept, and how they are made where addresses or names fail."""

from __future__ import annotations

import socket
import threading
import time
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.support.environs import RUN, answer_to
from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer, answering
from wsgi_fal_proxy import FalProxy
from wsgi_fal_proxy._core.proxy import _reap_from_watcher
from wsgi_fal_proxy._upstream import pool as pool_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def get(proxy: FalProxy, target: str = RUN) -> tuple[str, str | None]:
    status, headers, _ = answer_to(proxy, HTTP_X_FAL_TARGET_URL=target)
    return status, headers.get("x-fal-proxy-error")


def proxy_to(server: RawServer, directory: Path, **options: Any) -> FalProxy:
    return FalProxy(key="k", pool_manager=server.pool_manager(directory), **options)


def kept(proxy: FalProxy) -> list[Any]:
    (pool,) = proxy._upstream._pools.connected.values()
    queue: Any = pool.pool
    return pool._kept if not pool.block else [one for one in queue.queue if one is not None]


class Burst:
    """Answers as many requests at a time as asked for, then closes all connections at once."""

    def __init__(self, count: int) -> None:
        self.together = threading.Barrier(count)
        self.close = threading.Event()

    def __call__(self, connection: Connection) -> None:
        connection.read_head()
        self.together.wait(WAIT_SECONDS)
        connection.send(OK)
        assert self.close.wait(WAIT_SECONDS)


def call_at_once(proxy: FalProxy, count: int) -> None:
    threads = [threading.Thread(target=get, args=(proxy,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)


# How long connections are kept.


def test_a_kept_connection_that_is_too_old_is_closed_instead_of_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_IDLE_SECONDS", 0.0)
    with RawServer(answering(OK, OK)) as server:
        proxy = proxy_to(server, tmp_path)
        assert [get(proxy), get(proxy)] == [("200 OK", None)] * 2
        assert server.connections == 2
        proxy._upstream._pools.reset_after_fork()


def test_the_watcher_closes_connections_that_are_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_IDLE_SECONDS", 0.0)
    with RawServer(answering(OK, OK)) as server:
        proxy = proxy_to(server, tmp_path)
        get(proxy)
        sock = kept(proxy)[0].sock
        _reap_from_watcher()
        assert (kept(proxy), sock.fileno()) == ([], -1)


@pytest.mark.parametrize("blocks", [False, True], ids=["list", "urllib3s-queue"])
def test_the_watcher_closes_connections_that_fal_has_closed(tmp_path: Path, blocks: bool) -> None:
    burst = Burst(20)
    with RawServer(burst) as server:
        manager = server.pool_manager(tmp_path)
        if blocks:
            manager.connection_pool_kw.update(block=True, maxsize=20)
        proxy = FalProxy(key="k", pool_manager=manager)
        call_at_once(proxy, 20)
        sockets = [connection.sock for connection in kept(proxy)]
        assert len(sockets) == 20
        _reap_from_watcher()
        assert all(sock.fileno() >= 0 for sock in sockets)
        burst.close.set()
        until = monotonic() + WAIT_SECONDS
        while any(sock.fileno() >= 0 for sock in sockets) and monotonic() < until:
            _reap_from_watcher()
            time.sleep(0.01)
        assert all(sock.fileno() == -1 for sock in sockets)


def test_the_watcher_leaves_sockets_alone_under_gevent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_IDLE_SECONDS", 0.0)
    monkeypatch.setattr("wsgi_fal_proxy._core.proxy.gevent_owns_sockets", lambda: True)
    with RawServer(answering(OK)) as server:
        proxy = proxy_to(server, tmp_path)
        get(proxy)
        _reap_from_watcher()
        assert kept(proxy)[0].sock.fileno() >= 0
        proxy._upstream._pools.reset_after_fork()


def test_calls_close_connections_that_are_too_old_and_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(pool_module, "_REAP_SECONDS", 0.0)
    monkeypatch.setattr(pool_module, "_MAX_CHECKED_PER_CALL", 4)
    burst = Burst(10)
    counts: list[int] = []

    def script(connection: Connection) -> None:
        if connection.number <= 10:
            burst(connection)
        else:
            answering(OK)(connection)

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path)
        call_at_once(proxy, 10)
        burst.close.set()
        for _ in range(4):
            counts.append(len(kept(proxy)))
            get(proxy)
        proxy._upstream._pools.reset_after_fork()
    # Each call takes one of them, connects it again, and closes four.
    assert counts == [10, 6, 2, 1]


def test_a_connection_that_a_call_has_taken_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answering(OK, OK)) as server:
        proxy = proxy_to(server, tmp_path)
        get(proxy)
        (pool,) = proxy._upstream._pools.connected.values()
        (connection,) = pool._kept
        # One that was found gone, and was used before it could be closed.
        monkeypatch.setattr(pool_module, "_find_gone", lambda *_: [connection])
        pool.reap()
        assert pool._kept == [connection]
        pool._kept.clear()
        pool._reap_at = 0.0
        pool.reap()
        assert connection.is_connected
        connection.close()


def keepalive(sock: socket.socket) -> tuple[int, ...]:
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
    )


def test_connections_are_kept_alive(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        proxy = proxy_to(server, tmp_path)
        get(proxy)
        assert keepalive(kept(proxy)[0].sock) == (1, 3, 3, 20, 1)
        proxy._upstream._pools.reset_after_fork()


def test_a_managers_own_socket_options_stay(tmp_path: Path) -> None:
    with RawServer(answering(OK)) as server:
        manager = server.pool_manager(tmp_path)
        manager.connection_pool_kw["socket_options"] = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
        ]
        proxy = FalProxy(key="k", pool_manager=manager)
        get(proxy)
        assert keepalive(kept(proxy)[0].sock)[:2] == (1, 77)
        proxy._upstream._pools.reset_after_fork()


# Names and addresses, as the default pool manager looks them up and dials them.


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


def resolve(monkeypatch: pytest.MonkeyPatch, *ports: int, seconds: float = 0.0) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        time.sleep(seconds)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))
            for port in ports
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def trusting(server: RawServer, directory: Path, **options: Any) -> FalProxy:
    server.pool_manager(directory)
    proxy = FalProxy(key="k", **options)
    trusted = proxy._upstream._pools._manager.connection_pool_kw["ssl_context"]
    trusted.load_verify_locations(directory / "ca.pem")
    return proxy


def test_a_lookup_does_not_count_against_the_time_to_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answering(OK)) as server:
        resolve(monkeypatch, server.port, seconds=2.5)
        proxy = trusting(server, tmp_path, connect_timeout=2)
        assert get(proxy) == ("200 OK", None)
        proxy._upstream._pools.reset_after_fork()


def test_the_total_timeout_ends_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        assert ended.wait(WAIT_SECONDS)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert get(FalProxy(key="k", total_timeout=0.2))[1] == "total_timeout"
    ended.set()


def test_dead_addresses_delay_a_connection_by_a_moment_and_only_once(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answering(OK)) as server:
        resolve(monkeypatch, dead, dead, dead, server.port)
        proxy = trusting(server, tmp_path, connect_timeout=60)
        began = monotonic()
        assert get(proxy) == ("200 OK", None)
        # A share of the time for each of them was 15 seconds.
        assert monotonic() - began < WAIT_SECONDS
        (pool,) = proxy._upstream._pools.connected.values()
        first = pool._lookup.addresses("fal.run", 443, None)[0]
        assert first[-1] == ("127.0.0.1", server.port)
        proxy._upstream._pools.reset_after_fork()


def test_an_address_on_which_tls_fails_goes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        RawServer(answering(OK), authority=trustme.CA()) as other,
        RawServer(answering(OK)) as server,
    ):
        resolve(monkeypatch, other.port, server.port)
        proxy = trusting(server, tmp_path)
        assert get(proxy)[1] == "upstream_tls_failed"
        assert get(proxy) == ("200 OK", None)
        proxy._upstream._pools.reset_after_fork()
