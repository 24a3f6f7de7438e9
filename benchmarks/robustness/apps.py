"""Applications that the robustness benchmark serves by gunicorn."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from benchmarks.common.calls import Answer
from wsgi_fal_proxy import FalProxyMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SLOTS: Final = 4
"""The `max_concurrent` of `full`."""
_WARM_CONNECTIONS: Final = 8
# As large as the pieces in which the proxy reads a body.
_PIECE_BYTES: Final = 65_536


def other_routes(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer at once, as an app's other routes."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]


def preloaded() -> WSGIApplication:
    """Make a proxy with connections in its pool."""
    app = FalProxyMiddleware(other_routes)
    with ExitStack() as stack:
        answers = [
            stack.enter_context(Answer(app, "/down/1000000")) for _ in range(_WARM_CONNECTIONS)
        ]
        for answer in answers:
            if len(b"".join(answer.content)) != 1_000_000:
                raise AssertionError("the pool could not be filled")
    return app


def reading(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the body in pieces without keeping them, and answer with its length."""
    count = 0
    while piece := environ["wsgi.input"].read(_PIECE_BYTES):
        count += len(piece)
    content = b"%d" % count
    start_response("200 OK", [("Content-Length", str(len(content)))])
    return [content]


def full() -> WSGIApplication:
    """Make a proxy with few slots, in front of other routes."""
    return FalProxyMiddleware(other_routes, max_concurrent=SLOTS)
