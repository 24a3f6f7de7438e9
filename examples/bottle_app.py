"""Put the proxy in front of a Bottle app.

    FAL_KEY=... python examples/bottle_app.py

Leaves out: who may call. Bottle's plugins and hooks do not see the proxy's requests, so anyone who
reaches this server can call fal, and you pay.
"""

import os

from bottle import Bottle
from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxyMiddleware

bottle = Bottle()


@bottle.get("/")
def hello() -> str:
    """Answer as Bottle does."""
    return "Hello from Bottle\n"


app = FalProxyMiddleware(bottle)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
