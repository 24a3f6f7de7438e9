"""Mount the proxy beside an application by Werkzeug's DispatcherMiddleware.

    FAL_KEY=... python examples/dispatcher.py

Leaves out: who may call (anyone who reaches this server can, and you pay).
"""

import os
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxy


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello from the dispatcher\n"]


app = DispatcherMiddleware(hello, {"/api/fal/proxy": FalProxy()})

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
