"""The client's connection: spoilt where an answer broke off, reset where nobody reads."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.raw_server import tcp_pair
from wsgi_fal_proxy._downstream import connection as client

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection's two ends: the server's, and the client's."""
    with tcp_pair() as connected:
        yield connected


class Channel:
    """As much of waitress's as counts."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.written: list[bytes] = []

    def check_client_disconnected(self) -> bool: ...  # type: ignore[empty-body]

    def write_soon(self, data: bytes) -> None:
        self.written.append(data)


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_break_framing_goes_on_in_chunks_with_what_is_no_chunk(pair: Pair, key: str) -> None:
    ours, theirs = pair
    client.break_framing({"SERVER_PROTOCOL": "HTTP/1.1", "wsgi.multithread": True, key: ours})
    assert theirs.recv(100) == b"truncated\r\n"


def test_break_framing_has_waitress_write_it(pair: Pair) -> None:
    channel = Channel(pair[0])
    environ = {"waitress.client_disconnected": channel.check_client_disconnected}
    client.break_framing({"SERVER_PROTOCOL": "HTTP/1.1", **environ})
    assert channel.written == [b"truncated\r\n"]
    assert client.client_connection(environ)[0] == pair[0].fileno()


def of_waitress(sock: socket.socket) -> dict[str, Any]:
    return {"waitress.client_disconnected": Channel(sock).check_client_disconnected}


@pytest.mark.parametrize(
    ("protocol", "environ"),
    [
        ("HTTP/1.0", lambda sock: {"gunicorn.socket": sock}),
        ("HTTP/1.0", of_waitress),
        ("HTTP/1.1", lambda sock: {"werkzeug.socket": sock}),
    ],
    ids=["HTTP/1.0", "HTTP/1.0 under waitress", "one request at a time under Werkzeug"],
)
def test_break_framing_resets_an_answer_that_ends_with_its_connection(
    pair: Pair, protocol: str, environ: Any
) -> None:
    ours, theirs = pair
    ours.sendall(b"part")
    client.break_framing({"SERVER_PROTOCOL": protocol, **environ(ours)})
    assert theirs.recv(100) == b"part"
    with pytest.raises(ConnectionResetError):
        theirs.recv(100)


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_break_framing_does_nothing_where_the_server_keeps_its_socket(protocol: str) -> None:
    client.break_framing({"SERVER_PROTOCOL": protocol})


def test_break_framing_takes_a_client_that_has_left_for_no_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    environ: dict[str, Any] = {"SERVER_PROTOCOL": "HTTP/1.1", "gunicorn.socket": ours}
    for _ in range(3):
        client.break_framing(environ)
    client.reset(ours.fileno())


def test_reset_lets_the_server_read_the_end_and_no_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    # The client's system answers this by a reset, so that the connection is gone before ours.
    ours.sendall(b"truncated")
    client.reset(ours.fileno())
    with pytest.raises(BrokenPipeError):
        ours.sendall(b"0\r\n\r\n")
    assert ours.recv(100) == b""


def test_reset_is_left_to_the_server_where_the_system_knows_no_such_reset(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    monkeypatch.setattr("sys.platform", "darwin")
    client.reset(ours.fileno())
    ours.sendall(b"still there")
    assert theirs.recv(100) == b"still there"


def test_client_connection_is_none_if_it_is_closed_or_of_other_requests_too(pair: Pair) -> None:
    ours, theirs = pair
    environ = {"SERVER_PROTOCOL": "HTTP/2.0", "gunicorn.socket": ours}
    assert client.client_connection(environ)[0] is None
    client.break_framing(environ)
    ours.sendall(b"still there")
    assert theirs.recv(100) == b"still there"
    ours.close()
    assert (
        client.client_connection({"SERVER_PROTOCOL": "HTTP/1.1", "gunicorn.socket": ours})[0]
        is None
    )


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2.0"])
def test_break_framing_resets_uwsgis_connection_whatever_nginx_was_asked_in(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    ours, theirs = pair
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(connection_fd=ours.fileno))
    client.break_framing({"SERVER_PROTOCOL": protocol})
    with pytest.raises(ConnectionResetError):
        theirs.recv(100)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_bytes_written_are_unknown_where_the_system_tells_too_little(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_INFO_BYTES", 1_000)
    assert client.bytes_written({"gunicorn.socket": pair[0]}) is None
