"""The proxy as a sink of a Falcon app, behind Falcon's middleware.

    FAL_KEY=... FRONT_END_TOKEN=... python examples/falcon_sink.py

A page of yours sends the token: fal.config({ fetch: ... }) can add a header to each request.

Leaves out: users (one token is for all), and how often each may call.
"""

import hmac
import os
import secrets

import falcon
from werkzeug.serving import run_simple
from werkzeug.test import run_wsgi_app

from wsgi_fal_proxy import FalProxy, allow_anyone

TOKEN = os.environ.get("FRONT_END_TOKEN") or secrets.token_hex()
fal = FalProxy(authorize=allow_anyone)  # who comes as far as this


class Hello:
    """Answers as Falcon does."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer GET."""
        resp.text = "Hello from Falcon\n"


class TokenNeeded:
    """Answers 401 to who calls fal without the token."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Look at a request before Falcon looks for who answers it."""
        given = req.get_header("X-Front-End-Token", default="")
        same = hmac.compare_digest(given.encode(), TOKEN.encode())
        if req.path.startswith("/api/fal/proxy") and not same:
            # fal's client shows `message`; Falcon's own errors have a title instead.
            message = "Sign in to make pictures."
            resp.media = {"detail": message, "message": message}
            resp.status = falcon.HTTP_401
            resp.complete = True


def relay(req: falcon.Request, resp: falcon.Response, **captured: str) -> None:
    """Relay to fal."""
    content, resp.status, headers = run_wsgi_app(fal, req.env)
    for name, value in headers:
        resp.append_header(name, value)
    resp.stream = content


app = falcon.App(middleware=[TokenNeeded()])
app.add_route("/", Hello())
app.add_sink(relay, "/api/fal/proxy(/|$)")

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
