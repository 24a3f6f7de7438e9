"""After a refusal, the next request on the same connection is answered right."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.raw_server import Connection
from tests.serving import Served, dialling, serve_gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_fal_proxy.testing import FakeFal

RUN = b"x-fal-target-url: https://fal.run/fal-ai/flux/dev\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = b'{"prompt": "GET / HTTP/1.1\\r\\nHost: smuggled\\r\\n\\r\\n"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
LARGE = 1_500_000

REQUESTS = {
    "method": (405, b"DELETE /api/fal/proxy HTTP/1.1\r\n" + RUN + JSON + LENGTH, BODY),
    "no target": (400, b"POST /api/fal/proxy HTTP/1.1\r\n" + JSON + LENGTH, BODY),
    "hostile target": (
        412,
        b"POST /api/fal/proxy HTTP/1.1\r\nx-fal-target-url: https://evil.example\\.fal.run/\r\n"
        + JSON
        + LENGTH,
        BODY,
    ),
    "two targets": (412, b"POST /api/fal/proxy HTTP/1.1\r\n" + RUN + RUN + JSON + LENGTH, BODY),
    "not JSON": (415, b"POST /api/fal/proxy HTTP/1.1\r\n" + RUN + LENGTH, BODY),
    "chunked, not JSON": (
        415,
        b"POST /api/fal/proxy HTTP/1.1\r\n" + RUN + b"Transfer-Encoding: chunked\r\n",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ),
    "too large": (
        413,
        b"POST /api/fal/proxy HTTP/1.1\r\n" + RUN + JSON + b"Content-Length: %d\r\n" % LARGE,
        b"x" * LARGE,
    ),
    "no model": (
        404,
        b"POST /api/fal/proxy HTTP/1.1\r\nx-fal-target-url: https://rest.fal.ai/nix\r\n"
        + JSON
        + LENGTH,
        BODY,
    ),
}


@pytest.fixture(scope="module")
def served(_shared_fal: FakeFal) -> Iterator[Served]:
    environment = {**dialling(_shared_fal), "FAL_PROXY_MAX_BODY_BYTES": "1000000"}
    threads = ("--threads", "2")
    with serve_gunicorn("wsgi_fal_proxy.wsgi", *threads, environment=environment) as served:
        yield served


def read_answer(connection: Connection) -> tuple[int, dict[str, object]]:
    head, content = connection.read_request()
    return int(head.split()[1]), json.loads(content)


@pytest.mark.parametrize(("status", "head", "body"), REQUESTS.values(), ids=REQUESTS.keys())
def test_the_next_request_on_the_connection_is_answered_right(
    served: Served, fal: FakeFal, status: int, head: bytes, body: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 10) as sock:
        connection = Connection(sock, 1)
        connection.send(head + b"Host: localhost\r\n\r\n" + body)
        assert read_answer(connection)[0] == status
        fal.requests.clear()
        good = b'{"prompt": "a fox", "image_size": {"width": 8, "height": 8}}'
        connection.send(
            b"POST /api/fal/proxy HTTP/1.1\r\nHost: localhost\r\n"
            + RUN
            + JSON
            + b"Content-Length: %d\r\n\r\n" % len(good)
            + good
        )
        status, data = read_answer(connection)
    assert (status, data["prompt"]) == (200, "a fox")
    assert len(fal.requests) == 1
