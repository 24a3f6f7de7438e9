"""When the client leaves, the upstream connection is closed: fal stops, and bills no more."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.serving import SERVERS, Served, dialling_raw

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    Serve = Callable[..., AbstractContextManager[Served]]

# Those that hand over the client's socket.
WATCHED = ["gunicorn sync", "gunicorn gthread", "gunicorn gevent", "waitress", "werkzeug"]
CALL = (
    b"GET /api/fal/proxy HTTP/1.1\r\nHost: localhost\r\n"
    b"x-fal-target-url: https://fal.run/fal-ai/flux/dev\r\n\r\n"
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: 1\n\n"


@pytest.mark.parametrize("server", WATCHED)
@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "between two events"])
def test_the_upstream_is_closed_when_the_client_leaves_while_fal_is_silent(
    tmp_path: Path, server: str, begun: bool
) -> None:
    arrived, closed = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        if begun:
            connection.send(HEAD + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        arrived.set()
        connection.wait_for_close()
        closed.set()

    with (
        RawServer(script) as upstream,
        SERVERS[server](dialling_raw(upstream, tmp_path)) as served,
    ):
        with socket.create_connection(("127.0.0.1", served.port), WAIT_SECONDS) as client:
            client.sendall(CALL)
            assert arrived.wait(WAIT_SECONDS)
            received = b""
            while begun and EVENT not in received:
                received += client.recv(65_536)
            assert not closed.is_set()
        assert closed.wait(WAIT_SECONDS)
        # The server has not suffered, and does not think so.
        log = served.log.read_text()
    assert "Traceback" not in log
    assert "upstream_closed" not in log
