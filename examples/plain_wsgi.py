"""Wrap a plain WSGI application: all paths are its own, but /api/fal/proxy.

    FAL_KEY=... python examples/plain_wsgi.py

Leaves out: who may call (anyone who reaches this server can, and you pay), and a server for
production (see gunicorn.conf.py).
"""

import os
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxyMiddleware


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello from plain WSGI\n"]


app = FalProxyMiddleware(hello)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
