"""Servers that fork with connections open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import urllib3

from tests.support.raw_server import Connection, RawServer
from tests.support.serving import dialling_raw, serve_gunicorn

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


def test_fork_keeps_workers_from_the_masters_warm_connection(tmp_path: Path) -> None:
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
