"""Servers that do not say how long a request body is: the body reaches fal, or nothing does."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from a2wsgi import WSGIMiddleware
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded

from tests.support.raw_server import WAIT_SECONDS
from tests.support.serving import dialling, serve_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.serving import Served
    from wsgi_fal_proxy import FalProxy
    from wsgi_fal_proxy.testing import FakeFal

SMALL = b'{"prompt": "a red fox"}'
LARGE = b'{"prompt": "a red fox", "more": "%b"}' % (b"x" * 200_000)
HEADERS = {
    "x-fal-target-url": "https://fal.run/fal-ai/flux/dev",
    "content-type": "application/json",
}


# a2wsgi, as Mangum and Modal use it.


def status_by_a2wsgi(
    proxy: FalProxy, *messages: dict[str, Any], http_version: str, **headers: str
) -> int:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": http_version,
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in {**HEADERS, **headers}.items()
        ],
    }
    left = iter([*messages, {"type": "http.disconnect"}])
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return next(left)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def call() -> None:
        wsgi: Any = proxy
        app: Any = WSGIMiddleware(wsgi)
        await app(scope, receive, send)

    asyncio.run(call())
    (status,) = statuses
    return status


@pytest.mark.parametrize(
    ("http_version", "headers"),
    [
        pytest.param("1.1", {}, id="mangum"),
        pytest.param("1.1", {"transfer_encoding": "chunked"}, id="chunked"),
        pytest.param("2", {}, id="http-2"),
    ],
)
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_a2wsgi_body_without_a_length_is_relayed(
    proxy: FalProxy, fal: FakeFal, body: bytes, http_version: str, headers: dict[str, str]
) -> None:
    messages = (
        {"type": "http.request", "body": body[:10], "more_body": True},
        {"type": "http.request", "body": body[10:]},
    )
    assert status_by_a2wsgi(proxy, *messages, http_version=http_version, **headers) == 200
    assert [request.body for request in fal.requests] == [body]


def test_a2wsgi_call_whose_client_left_before_its_body_is_not_sent(
    proxy: FalProxy, fal: FakeFal
) -> None:
    for version, headers in (("2", {}), ("1.1", {"transfer_encoding": "chunked"})):
        assert status_by_a2wsgi(proxy, http_version=version, **headers) == 400
    assert fal.requests == []


# hypercorn, which speaks HTTP/2.


@pytest.fixture
def hypercorn(fal: FakeFal) -> Iterator[Served]:
    command = ("-m", "hypercorn", "--bind", "127.0.0.1:{port}")
    with serve_command(dialling(fal), *command, "wsgi:wsgi_fal_proxy.wsgi:application") as served:
        yield served


def status_by_http_2(port: int, body: bytes) -> int:
    h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
    head = {":method": "POST", ":path": "/api/fal/proxy", ":scheme": "http", ":authority": "x"}
    status = 0
    with socket.create_connection(("127.0.0.1", port), WAIT_SECONDS) as client:
        h2.initiate_connection()
        h2.send_headers(1, list((head | HEADERS).items()), end_stream=not body)
        if body:
            h2.send_data(1, body, end_stream=True)
        while True:
            client.sendall(h2.data_to_send())
            for event in h2.receive_data(client.recv(65_536)):
                if isinstance(event, ResponseReceived):
                    fields: dict[Any, Any] = dict(event.headers)
                    status = int(fields[":status"])
                elif isinstance(event, DataReceived):
                    h2.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, StreamEnded):
                    return status


def test_hypercorn_body_without_a_length_is_relayed(hypercorn: Served, fal: FakeFal) -> None:
    assert status_by_http_2(hypercorn.port, SMALL) == 200
    with urllib3.PoolManager(retries=False, timeout=WAIT_SECONDS) as http:
        for body in (SMALL, LARGE):
            answer = http.request(
                "POST",
                f"{hypercorn.url}/api/fal/proxy",
                body=[body[:10], body[10:]],
                headers=HEADERS,
                chunked=True,
            )
            assert answer.status == 200
    assert [request.body for request in fal.requests] == [SMALL, SMALL, LARGE]


def test_hypercorn_call_without_a_body_is_not_sent_over_http_2(
    hypercorn: Served, fal: FakeFal
) -> None:
    assert status_by_http_2(hypercorn.port, b"") == 400
    assert fal.requests == []
