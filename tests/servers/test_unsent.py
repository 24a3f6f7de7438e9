"""Calls that fal never sees: they are not sent too late, and nothing is counted for them."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.support.serving import dialling_raw, other_end, serve_gunicorn, wait_for_close
from tests.wire.test_upstream import OK, post, proxy_manager, tunnelling
from wsgi_fal_proxy import FalProxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THREADS: Final = ("--threads", "8")
LATE_SECONDS: Final = 1.5
"""After a total_timeout of 1 s."""
NOTICED_SECONDS: Final = 0.3
"""More than the proxy needs to notice that a client has left. Nothing outside it tells."""


def head(length: int) -> bytes:
    """Give the head of a call that spends, the last on its connection."""
    return (
        b"POST /api/fal/proxy HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n"
        b"x-fal-target-url: https://fal.run/fal-ai/flux/dev\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
    )


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)


def answer_on(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65_536), b""))


def call(port: int) -> bytes:
    """Make a whole call, and give the whole answer."""
    with connect(port) as client:
        client.sendall(head(2) + b"{}")
        return answer_on(client)


# total_timeout is over before anything is sent.


def test_total_timeout_keeps_a_call_from_fal_whose_body_is_complete_too_late(
    tmp_path: Path,
) -> None:
    arrived: list[bytes] = []

    def script(connection: Connection) -> None:
        while True:
            arrived.append(connection.read_request()[1])
            connection.send(OK)

    with RawServer(script) as upstream:
        environment = dialling_raw(upstream, tmp_path) | {"FAL_PROXY_TOTAL_TIMEOUT": "1"}
        with serve_gunicorn("wsgi_fal_proxy.wsgi", *THREADS, environment=environment) as served:
            # This leaves a connection to fal, on which a call could go at once.
            assert call(served.port).startswith(b"HTTP/1.1 200 OK\r\n")
            with connect(served.port) as client:
                client.sendall(head(15) + b'{"prompt": ')
                time.sleep(LATE_SECONDS)
                client.sendall(b'"x"}')
                answer = answer_on(client)
    assert arrived == [b"{}"]
    assert answer.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert b"x-fal-proxy-error: total_timeout\r\n" in answer
    # It may be sent again.
    assert b"may have received" not in answer


class Dripping(Connection):
    """Sends byte by byte, each well within a socket's timeout."""

    def send(self, data: bytes) -> None:
        for byte in data:  # pragma: no branch - the other side closes before the end
            super().send(bytes([byte]))
            time.sleep(LATE_SECONDS / len(data))


def test_total_timeout_keeps_a_call_from_fal_whose_tunnel_is_there_too_late(
    tmp_path: Path,
) -> None:
    arrived: list[bytes] = []

    def script(connection: Connection) -> None:  # pragma: no cover - nothing arrives
        arrived.append(connection.read_request()[1])
        connection.send(OK)

    with RawServer(script) as upstream:
        tunnel = tunnelling(upstream.port, [], b"HTTP/1.1 200 Connected\r\n\r\n")

        def dripping(connection: Connection) -> None:
            tunnel(Dripping(connection.sock, connection.number))

        with RawServer(dripping, tls=False) as egress:
            manager = proxy_manager(egress, upstream, tmp_path)
            proxy = FalProxy(key="k", pool_manager=manager, total_timeout=1)
            status, headers, content = post(proxy, b"{}")
            manager.clear()
    assert arrived == []
    assert (status, headers["x-fal-proxy-error"]) == ("504 Gateway Timeout", "total_timeout")
    assert b"may have received" not in content


# The client leaves before anything is sent.


def close(client: socket.socket) -> None:
    client.close()


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


@pytest.mark.parametrize("leave", [close, half_close, reset])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(head(2) + b"{}", id="while-fal-is-dialled"),
        # More than is read ahead of the limits, and so than is sent at once.
        pytest.param(head(200_000) + b"x" * 100_000, id="in-mid-body"),
    ],
)
def test_limits_do_not_count_a_call_whose_client_left_before_it_was_sent(
    tmp_path: Path, sent: bytes, leave: Callable[[socket.socket], None]
) -> None:
    dialled, left = threading.Semaphore(0), threading.Semaphore(0)
    arrived: list[bytes] = []

    def script(connection: Connection) -> None:
        if connection.number <= 2:
            dialled.release()
            assert left.acquire(timeout=WAIT_SECONDS)
            time.sleep(NOTICED_SECONDS)
            assert server._context is not None
            connection.start_tls(server._context)
        arrived.append(connection.read_request()[1])
        connection.send(OK)

    with RawServer(script, plain=(1, 2)) as server:
        limits = {"FAL_PROXY_LIMITS": "2/day, 2/day global"}
        environment = dialling_raw(server, tmp_path) | limits
        with serve_gunicorn("wsgi_fal_proxy.wsgi", *THREADS, environment=environment) as served:
            for _ in range(2):
                with connect(served.port) as client:
                    client.sendall(sent)
                    assert dialled.acquire(timeout=WAIT_SECONDS)
                    name = other_end(client)
                    leave(client)
                    left.release()
                    wait_for_close(name)
            statuses = [call(served.port)[:12] for _ in range(3)]
    assert arrived == [b"{}", b"{}"]
    assert statuses == [b"HTTP/1.1 200", b"HTTP/1.1 200", b"HTTP/1.1 429"]
