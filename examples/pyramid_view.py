"""The proxy as a view of a Pyramid app, with a permission of its own.

    FAL_KEY=... python examples/pyramid_view.py

The settings are the ini file's, where they stand as text in [app:main].

Leaves out: passwords (whoever names a user is signed in as that one), and how often each may call.
"""

import os
import secrets

from pyramid.authentication import AuthTktCookieHelper
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from werkzeug.serving import run_simple


class Policy:
    """Who is signed in may make pictures."""

    def __init__(self) -> None:
        self.cookies = AuthTktCookieHelper(secrets.token_hex(), hashalg="sha512", samesite="Lax")

    def authenticated_userid(self, request: Request) -> str | None:
        """Give the user's name, by the signed cookie."""
        found = self.cookies.identify(request)
        return found["userid"] if found else None

    def permits(self, request: Request, context: object, permission: str) -> Allowed | Denied:
        """Decide whether the user has the permission."""
        if permission == "make_pictures" and self.authenticated_userid(request):
            return Allowed("signed in")
        return Denied("not signed in")

    def remember(self, request: Request, userid: str) -> list[tuple[str, str]]:
        """Give the headers that begin a session."""
        headers: list[tuple[str, str]] = self.cookies.remember(request, userid)
        return headers


def unauthenticated(request: Request) -> Response:
    """Answer 401 with a message, which fal's client shows."""
    message = "Sign in to make pictures."
    return Response(json={"detail": message, "message": message}, status=401)


def sign_in(request: Request) -> Response:
    """Begin a session."""
    response = Response("Signed in\n")
    response.headerlist.extend(policy.remember(request, request.POST["username"]))
    return response


def hello(request: Request) -> Response:
    """Answer as Pyramid does."""
    return Response("Hello from Pyramid\n")


policy = Policy()
settings = {"fal_proxy.permission": "make_pictures", "fal_proxy.read_timeout": "120"}

with Configurator(settings=settings) as config:
    config.set_security_policy(policy)
    config.include("wsgi_fal_proxy.pyramid")
    config.add_forbidden_view(unauthenticated)
    config.add_route("hello", "/")
    config.add_view(hello, route_name="hello")
    config.add_route("login", "/login")
    config.add_view(sign_in, route_name="login")
    app = config.make_wsgi_app()

if __name__ == "__main__":
    run_simple("127.0.0.1", int(os.environ.get("PORT", "8000")), app, threaded=True)
