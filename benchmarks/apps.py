"""Applications that the benchmarks serve by gunicorn."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from benchmarks.harness import Answer
from wsgi_fal_proxy import FalProxyMiddleware
from wsgi_fal_proxy._http.request_body import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_WARM_CONNECTIONS: Final = 8
SLOTS: Final = 4
"""The calls that the application of `full` relays at a time."""


def other_routes(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the rest of an app would, at once."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]


def preloaded() -> WSGIApplication:
    """Make a proxy with connections in its pool."""
    app = FalProxyMiddleware(other_routes)
    with ExitStack() as stack:
        answers = [
            stack.enter_context(Answer(app.proxy, "/down/1000000"))
            for _ in range(_WARM_CONNECTIONS)
        ]
        for answer in answers:
            if len(b"".join(answer.content)) != 1_000_000:
                raise AssertionError("the pool could not be filled")
    return app


def reading(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body piece by piece, as the proxy does, keep none of it, and give its length."""
    count = 0
    while piece := environ["wsgi.input"].read(PIECE_BYTES):
        count += len(piece)
    content = b"%d" % count
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]


def full() -> WSGIApplication:
    """Make a proxy, in front of other routes, that relays few calls at a time."""
    return FalProxyMiddleware(other_routes, max_concurrent=SLOTS)
