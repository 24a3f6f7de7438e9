"""Who may call, on real servers: a body that is refused does not become the next request."""

from __future__ import annotations

import os
import socket
from time import time
from typing import TYPE_CHECKING, Final

import jwt
import pytest

from tests.support.raw_server import WAIT_SECONDS, Connection
from tests.support.serving import ROOT, dialling, serve_command, serve_gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.serving import Served
    from wsgi_fal_proxy.testing import FakeFal

JWT_SECRET: Final = "s" * 32
BODY: Final = b'{"prompt": "GET / HTTP/1.1\\r\\nHost: smuggled\\r\\n\\r\\n"}'
# More than servers read ahead; the proxy reads up to 1 MiB before `authorize` has agreed.
LARGE: Final = b'"' + b"x" * 1_000_000 + b'"'
UNREAD: Final = b'"' + b"x" * 1_500_000 + b'"'
LENGTH: Final = b"Content-Length: %d\r\n\r\n"
BODIES: Final = {
    "small": LENGTH % len(BODY) + BODY,
    "large": LENGTH % len(LARGE) + LARGE,
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
}


@pytest.fixture(scope="module", params=["gunicorn", "waitress", "cheroot"])
def served(request: pytest.FixtureRequest, _shared_fal: FakeFal) -> Iterator[Served]:
    """The example with tokens. It refuses callers without one."""
    environment = dialling(_shared_fal) | {"JWT_SECRET": JWT_SECRET}
    environment["PYTHONPATH"] += os.pathsep + str(ROOT / "examples")
    if request.param == "gunicorn":
        serving = serve_gunicorn("jwt_app:app", "--threads", "2", environment=environment)
    else:
        option = {"waitress": "--listen", "cheroot": "--bind"}[request.param]
        command = ("-m", request.param, option, "127.0.0.1:{port}", "jwt_app:app")
        serving = serve_command(environment, *command)
    with serving as served:
        yield served


POST: Final = (
    b"POST /api/fal/proxy HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"X-Fal-Target-Url: https://fal.run/fal-ai/flux/dev\r\n"
)


def permitted() -> bytes:
    """Return a request that the example lets through."""
    claims = {"sub": "ada", "aud": "fal", "exp": time() + 60}
    token = jwt.encode(claims, JWT_SECRET).encode()
    return POST + b"Authorization: Bearer %b\r\n" % token + BODIES["small"]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_authorize_refusal_does_not_leave_a_body_for_the_next_request(
    served: Served, fal: FakeFal, body: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), WAIT_SECONDS) as sock:
        connection = Connection(sock, 1)
        connection.send(POST + body)
        head, _ = connection.read_request()
        assert head.startswith(b"HTTP/1.1 401 ")
        assert fal.requests == []
        connection.send(permitted())
        head, _ = connection.read_request()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert len(fal.requests) == 1


def test_authorize_refusal_of_a_body_that_is_not_read_ends_the_connection_or_drops_it(
    served: Served, fal: FakeFal
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), WAIT_SECONDS) as sock:
        connection = Connection(sock, 1)
        connection.send(POST + LENGTH % len(UNREAD) + UNREAD)
        head, _ = connection.read_request()
        assert head.startswith(b"HTTP/1.1 401 ")
        assert fal.requests == []
        try:
            connection.send(permitted())
            head, _ = connection.read_request()
        except ConnectionError:
            head = b""
    # The body is not taken for a request: that would be answered 400.
    assert head == b"" or head.startswith(b"HTTP/1.1 200 ")
    assert len(fal.requests) == (head != b"")
