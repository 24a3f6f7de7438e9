"""Mount the proxy in a Bottle app, behind a plugin that asks who calls.

    FAL_KEY=... python examples/bottle_mount.py

Leaves out: passwords (whoever names a user is signed in as that one), and how often each may call.
Bottle begins an answer when its first piece is there: a stream's head comes with its first event.
"""

import os
import secrets
from collections.abc import Callable
from typing import Any

from bottle import Bottle, HTTPResponse, request, response
from werkzeug.serving import run_simple

from wsgi_fal_proxy import FalProxy, allow_anyone

COOKIE_SECRET = os.environ.get("COOKIE_SECRET") or secrets.token_hex()
app = Bottle()


def signed_in(relay: Callable[..., Any]) -> Callable[..., Any]:
    """Answer 401 to who is not: a plugin, as Bottle calls a decorator of routes."""

    def guarded(**captured: object) -> Any:
        if request.get_cookie("user", secret=COOKIE_SECRET):
            return relay(**captured)
        message = "Sign in to make pictures."
        return HTTPResponse({"detail": message, "message": message}, status=401)

    return guarded


fal = FalProxy(authorize=allow_anyone)  # who comes as far as this
# With `skip`, which Bottle sets on what is mounted, no plugin would be applied.
app.mount("/api/fal/proxy", fal, skip=None, apply=[signed_in])


@app.post("/login")
def sign_in() -> str:
    """Begin a session."""
    name = request.forms["username"]
    response.set_cookie("user", name, secret=COOKIE_SECRET, httponly=True, samesite="lax")
    return "Signed in\n"


@app.get("/")
def hello() -> str:
    """Answer as Bottle does."""
    return "Hello from Bottle\n"


if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
