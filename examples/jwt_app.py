"""Let who has a token of yours call fal: a JSON Web Token, checked by PyJWT, in front of any app.

    FAL_KEY=... JWT_SECRET=... python examples/jwt_app.py

In the front end, the token goes along with each call:

    fal.config({
      proxyUrl: "/api/fal/proxy",
      requestMiddleware: async (request) => ({
        ...request,
        headers: { ...request.headers, authorization: `Bearer ${token}` },
      }),
    });

Leaves out: who gives the tokens, and how often each may call. With a provider of identities, the
key is its public one (jwt.PyJWKClient), and the algorithm what it signs with.
"""

import os
import secrets
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import jwt
from werkzeug.serving import run_simple

from wsgi_fal_proxy import Allow, FalProxyMiddleware, FalRequest, Refuse

SECRET = os.environ.get("JWT_SECRET") or secrets.token_hex()


def bearer(request: FalRequest) -> Allow | Refuse:
    """Decide who may call fal: whom a token that is not over names as its subject."""
    scheme, _, token = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        return Refuse(401, "Send a token: authorization: Bearer ...")
    try:
        claims = jwt.decode(
            token,
            SECRET,
            algorithms=["HS256"],
            audience="fal",
            options={"require": ["sub", "exp", "aud"]},
        )
    except jwt.InvalidTokenError:
        return Refuse(401, "The token is not valid, or not any more.")
    return Allow(identity=claims["sub"])


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request alike."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello from behind a token\n"]


app = FalProxyMiddleware(hello, authorize=bearer)

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
