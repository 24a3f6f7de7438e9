"""Put the proxy in front of a Falcon app.

    FAL_KEY=... python examples/falcon_app.py

Leaves out: who may call. Falcon's middleware does not see the proxy's requests, so anyone who
reaches this server can call fal, and you pay. See falcon_sink.py for a check by middleware.
"""

import os

import falcon
from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxyMiddleware


class Hello:
    """Answers as Falcon does."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer GET."""
        resp.text = "Hello from Falcon\n"


app = falcon.App()
app.add_route("/", Hello())
wrapped = FalProxyMiddleware(app)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), wrapped, threaded=True)
