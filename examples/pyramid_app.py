"""Put the proxy in front of a Pyramid app.

    FAL_KEY=... python examples/pyramid_app.py

Leaves out: who may call. Pyramid's security policy does not see the proxy's requests, so anyone who
reaches this server can call fal, and you pay. With an ini file, the filter `egg:wsgi-fal-proxy`
does the same.
"""

import os

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxyMiddleware


def hello(request: Request) -> Response:
    """Answer as Pyramid does."""
    return Response("Hello from Pyramid\n")


with Configurator() as config:
    config.add_route("hello", "/")
    config.add_view(hello, route_name="hello")
    app = FalProxyMiddleware(config.make_wsgi_app())

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
