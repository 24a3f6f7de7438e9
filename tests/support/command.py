"""The command, as tests run it."""

from __future__ import annotations

import os
import select
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import webtest
from werkzeug.serving import BaseWSGIServer, make_server

from tests.support.raw_server import WAIT_SECONDS

if TYPE_CHECKING:
    import subprocess
    from wsgiref.types import WSGIApplication

TO_LLM: Final = {"x-fal-target-url": "https://fal.run/fal-ai/any-llm"}


@dataclass
class Visits:
    """What was to be served, and how it answered while it would have been."""

    servers: list[BaseWSGIServer] = field(default_factory=list)
    answers: list[webtest.TestResponse] = field(default_factory=list)
    prefix: str = "/api/fal/proxy"

    def make_server(
        self, host: str, port: int, app: WSGIApplication, *, threaded: bool
    ) -> BaseWSGIServer:
        server = make_server(host, port, app, threaded=threaded)
        server.serve_forever = self.visit  # type: ignore[method-assign]
        self.servers.append(server)
        return server

    def visit(self, poll_interval: float = 0) -> None:
        (server,) = self.servers
        app = webtest.TestApp(server.app, lint=True)
        self.answers = [
            app.post_json(self.prefix, {"prompt": "Why?"}, headers=TO_LLM, expect_errors=True),
            app.get("/", expect_errors=True),
            app.get("/", headers={"Host": "rebound.example:8000"}, expect_errors=True),
        ]
        server.server_close()


def read_until(words: str, process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    said = ""
    while words not in said:
        ready, _, _ = select.select([process.stdout], [], [], WAIT_SECONDS)
        assert ready
        piece = os.read(process.stdout.fileno(), 65_536)
        assert piece
        said += piece.decode()
    return said
