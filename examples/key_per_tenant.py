"""Let each tenant bring its own fal key, and pay for itself.

    TENANTS=tenants.json python examples/key_per_tenant.py

The file has, by the SHA-256 of each tenant's token for this server, its name and its fal key:

    {"5e884898...": {"name": "acme", "key": "..."}}

Leaves out: how tenants come to be there; the file is read once, at the start. Whoever can read it
has all keys.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.serving import run_simple

from wsgi_fal_proxy import Allow, FalProxyMiddleware, FalRequest, Refuse

TENANTS: dict[str, dict[str, str]] = json.loads(Path(os.environ["TENANTS"]).read_text())


def tenant(environ: WSGIEnvironment) -> dict[str, str] | None:
    """Find whose token a request carries."""
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    return TENANTS.get(hashlib.sha256(token.encode("latin-1")).hexdigest())


def known(request: FalRequest) -> Allow | Refuse:
    """Decide who may call fal."""
    found = tenant(request.environ)
    return Allow(identity=found["name"]) if found else Refuse(401, "Send your token.")


def key(environ: WSGIEnvironment) -> str | None:
    """Give the key of who calls; it is only asked for who may."""
    found = tenant(environ)
    return found["key"] if found else None


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, tenants\n"]


app = FalProxyMiddleware(hello, authorize=known, key=key)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
