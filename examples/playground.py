"""Put a page to try fal on beside an application, at /playground/.

    FAL_KEY=... python examples/playground.py

The page is plain HTML, CSS and JavaScript, in wsgi_fal_proxy/playground/page/: copy it from there
to make it yours. Without a key: python -m wsgi_fal_proxy --playground

Leaves out: who may call (anyone who reaches this server can, and you pay).
"""

import os
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxyMiddleware
from wsgi_fal_proxy.playground import Playground


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello beside the playground\n"]


app = Playground(FalProxyMiddleware(hello))

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
