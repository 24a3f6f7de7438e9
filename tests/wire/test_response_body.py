"""How an answer ends for a client that stalls, and for one whose answer breaks off."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.raw_server import WAIT_SECONDS, Connection, RawServer, tcp_pair
from tests.wire.test_calls import start
from tests.wire.test_upstream import CHUNKED, proxy_to
from wsgi_fal_proxy._core.standalone import StandaloneProxy
from wsgi_fal_proxy._downstream.connection import bytes_written
from wsgi_fal_proxy.errors import Truncated

if TYPE_CHECKING:
    from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def cut_after(*pieces: bytes) -> Any:
    """Send the head of a chunked answer, then these, and close."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED)
        for piece in pieces:
            connection.send(piece)

    return script


# Clients that do not read


def test_total_timeout_ends_a_call_whose_client_does_not_read(tmp_path: Path) -> None:
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED + b"3\r\none\r\n")
        connection.wait_for_close()
        closed.set()

    with RawServer(script) as server, tcp_pair() as (ours, theirs):
        proxy = proxy_to(server, tmp_path, total_timeout=2, max_concurrent=1)
        response = start(proxy, **{"gunicorn.socket": ours})
        while next(response) != b"one":  # pragma: no cover - as pieces come
            pass
        released = threading.Event()
        response._exchange.hold(released.set)
        # From here on the server would write to a client that does not read: nobody iterates.
        assert closed.wait(WAIT_SECONDS)
        # The client's connection is reset, so that the server's write ends.
        theirs.settimeout(WAIT_SECONDS)
        with pytest.raises(ConnectionResetError):
            theirs.recv(100)
        assert released.wait(WAIT_SECONDS)
        assert proxy._slots is not None
        assert proxy._slots._taken == set()
        response.close()


def test_total_timeout_frees_the_slot_where_the_server_keeps_the_clients_socket(
    tmp_path: Path,
) -> None:
    released = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(CHUNKED + b"3\r\none\r\n")
        connection.wait_for_close()

    with RawServer(script) as server:
        proxy = proxy_to(server, tmp_path, total_timeout=2, max_concurrent=1)
        response = start(proxy)
        while next(response) != b"one":  # pragma: no cover - as pieces come
            pass
        response._exchange.hold(released.set)
        assert released.wait(WAIT_SECONDS)
        assert proxy._slots is not None
        assert proxy._slots._taken == set()
        with pytest.raises(Truncated):
            next(response)


# Framing that is broken only if the answer has begun


def broken(tmp_path: Path, *pieces: bytes, written: bytes) -> bytes:
    """Relay an answer that breaks off to a server that writes this; give what the client got."""
    with RawServer(cut_after(*pieces)) as server, tcp_pair() as (ours, theirs):
        ours.sendall(b"earlier")
        response = start(proxy_to(server, tmp_path), **{"gunicorn.socket": ours})
        ours.sendall(written)

        def relay() -> None:
            for _ in response:
                pass

        with pytest.raises(Truncated):
            relay()
        ours.shutdown(socket.SHUT_WR)
        got = bytearray()
        while data := theirs.recv(100):
            got += data
        return bytes(got)


@pytest.mark.parametrize("pieces", [(), (b"3\r\none\r\n",)], ids=["before-content", "after"])
def test_response_body_breaks_the_framing_of_an_answer_that_the_client_has_begun_to_get(
    tmp_path: Path, pieces: tuple[bytes, ...]
) -> None:
    assert broken(tmp_path, *pieces, written=HEAD) == b"earlier" + HEAD + b"truncated\r\n"


@pytest.mark.parametrize("pieces", [(), (b"3\r\none\r\n",)], ids=["before-content", "after"])
def test_response_body_leaves_an_answer_to_the_server_that_has_sent_none_of_it(
    tmp_path: Path, pieces: tuple[bytes, ...]
) -> None:
    # As waitress does before the first content, and what collects whole answers before the end.
    assert broken(tmp_path, *pieces, written=b"") == b"earlier"


def test_bytes_written_counts_what_the_system_has_taken() -> None:
    with tcp_pair() as (ours, _):
        environ = {"gunicorn.socket": ours}
        before = bytes_written(environ)
        assert before is not None
        ours.sendall(b"x" * 1_000)
        assert bytes_written(environ) == before + 1_000
        # Also what the client has not taken yet.
        ours.setblocking(False)
        sent = 0
        try:
            while True:
                sent += ours.send(b"x" * 65_536)
        except BlockingIOError:
            pass
        assert bytes_written(environ) == before + 1_000 + sent


def test_bytes_written_is_not_known_of_another_kind_of_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert bytes_written({"gunicorn.socket": ours}) is None
    assert bytes_written({}) is None


# Clients that stall in their body, on a path that is not the relay's


def test_standalone_answers_a_client_that_stalls_in_its_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsgi_fal_proxy._http.request_body._DISCARD_SECONDS", 0.1)
    proxy = StandaloneProxy(key="k")
    statuses: list[str] = []
    with tcp_pair() as (ours, _), ours.makefile("rb") as source:
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/healthz",
            "CONTENT_LENGTH": "5",
            "wsgi.input": source,
            "gunicorn.socket": ours,
        }

        def call() -> None:
            proxy(environ, lambda status, *_: statuses.append(status) or (lambda data: None))  # type: ignore[func-returns-value]

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(WAIT_SECONDS)
        assert statuses == ["200 OK"]
