"""Servers that fork and that shut down, with connections open and streams under way."""

from __future__ import annotations

import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.raw_server import WAIT_SECONDS, Connection, RawServer
from tests.serving import SERVERS, dialling_raw, serve_gunicorn

if TYPE_CHECKING:
    from pathlib import Path

WARMING = """
from werkzeug.test import Client

def when_ready(server):
    client = Client(server.app.wsgi())
    headers = {"x-fal-target-url": "https://fal.run/warm"}
    answer = client.get("/api/fal/proxy", headers=headers, buffered=True)
    assert answer.get_data() == b"/warm", answer.get_data()
"""


def test_preloaded_workers_do_not_use_the_masters_warm_connection(tmp_path: Path) -> None:
    def script(connection: Connection) -> None:
        while True:
            path = connection.read_head().split()[1]
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)

    (tmp_path / "warming.py").write_text(WARMING)
    options = ("--preload", "--workers", "3", "--threads", "4")
    configuration = ("--config", str(tmp_path / "warming.py"))
    with (
        RawServer(script) as upstream,
        serve_gunicorn(
            "wsgi_fal_proxy.wsgi",
            *options,
            *configuration,
            environment=dialling_raw(upstream, tmp_path),
        ) as served,
        urllib3.PoolManager(maxsize=8) as http,
        ThreadPoolExecutor(8) as threads,
    ):

        def answer_to(number: int) -> bytes:
            headers = {"x-fal-target-url": f"https://fal.run/{number}"}
            return http.request("GET", f"{served.url}/api/fal/proxy", headers=headers).data

        answers = list(threads.map(answer_to, range(300)))
    assert answers == [b"/%d" % number for number in range(300)]


@pytest.mark.parametrize("server", ["gunicorn gthread", "gunicorn gevent"])
def test_a_stream_that_is_under_way_at_a_shutdown_comes_to_its_end(
    tmp_path: Path, server: str
) -> None:
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n")
        assert go_on.wait(WAIT_SECONDS)
        connection.send(b"1\r\n2\r\n0\r\n\r\n")

    with (
        RawServer(script) as upstream,
        SERVERS[server](dialling_raw(upstream, tmp_path)) as served,
        socket.create_connection(("127.0.0.1", served.port), WAIT_SECONDS) as client,
    ):
        client.sendall(
            b"GET /api/fal/proxy HTTP/1.1\r\nHost: localhost\r\n"
            b"x-fal-target-url: https://fal.run/x\r\n\r\n"
        )
        received = b""
        while not received.endswith(b"1\r\n1\r\n"):
            received += client.recv(65_536)
        os.kill(served.process.pid, signal.SIGTERM)
        go_on.set()
        while data := client.recv(65_536):
            received += data
        assert received.endswith(b"1\r\n1\r\n1\r\n2\r\n0\r\n\r\n")
        assert served.process.wait(WAIT_SECONDS) == 0
